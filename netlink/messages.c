/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "handshake.h"

#define MAX_ERRNO 4095
#define ERROR_HEADER (4 + 16)
#define ERROR_TEXT 1

EXPORTED void handshaked_result_clear(struct handshaked_result *result)
{
	free(result->peer_certificate);
	*result = (struct handshaked_result){ .alert = -1 };
}

static void keep_text(char *text, size_t room, const struct hs_attribute *attribute)
{
	size_t length = attribute->length < room ? attribute->length : room - 1;

	memcpy(text, attribute->data, length);
	text[length] = '\0';
}

static void keep_tag(struct handshaked_result *result, const struct hs_attribute *attribute)
{
	size_t used = strlen(result->tags);

	if (used + attribute->length + 2 > sizeof(result->tags))
		return;
	keep_text(result->tags + used, sizeof(result->tags) - used, attribute);
	strcat(result->tags, "\n");
}

static int keep_leaf(struct handshaked_result *result, const struct hs_attribute *attribute)
{
	if (result->peer_certificate || !attribute->length)
		return 0;
	result->peer_certificate = malloc(attribute->length);
	if (!result->peer_certificate)
		return ENOMEM;
	memcpy(result->peer_certificate, attribute->data, attribute->length);
	result->peer_certificate_length = attribute->length;
	return 0;
}

/* Return a valid final status. EAGAIN is not one: -EAGAIN means that the handshake is in progress. */
static int final_status(uint32_t status)
{
	return status > MAX_ERRNO || status == EAGAIN ? EIO : (int)status;
}

static void keep_text_attribute(struct handshaked_result *result, const struct hs_attribute *attribute)
{
	switch (attribute->type) {
	case HANDSHAKED_A_DONE_REASON:
		keep_text(result->reason, sizeof(result->reason), attribute);
		break;
	case HANDSHAKED_A_DONE_ALPN:
		keep_text(result->alpn, sizeof(result->alpn), attribute);
		break;
	case HANDSHAKED_A_DONE_SERVER_NAME:
		keep_text(result->server_name, sizeof(result->server_name), attribute);
		break;
	case HANDSHAKED_A_DONE_REGISTRATION:
		keep_text(result->registration, sizeof(result->registration), attribute);
		break;
	default:
		break;
	}
}

/* Store an attribute of DONE in `result`. Return 0 or a positive errno. */
static int keep_attribute(struct handshaked_result *result, const struct hs_attribute *attribute)
{
	switch (attribute->type) {
	case HANDSHAKED_A_DONE_STATUS:
		if (attribute->length != sizeof(uint32_t))
			return EPROTO;
		result->status = final_status(hs_u32(attribute));
		break;
	case HANDSHAKED_A_DONE_TAG:
		keep_tag(result, attribute);
		break;
	case HANDSHAKED_A_DONE_ALERT:
		result->alert = (int)hs_u32(attribute);
		break;
	case HANDSHAKED_A_DONE_CIPHER_SUITE:
		result->cipher_suite = hs_u32(attribute);
		break;
	case HANDSHAKED_A_DONE_RESUMED:
		result->resumed = 1;
		break;
	case HANDSHAKED_A_DONE_PEER_CERTIFICATE:
		return keep_leaf(result, attribute);
	case HANDSHAKED_A_DONE_EARLY_DATA_ACCEPTED:
		result->early_data_accepted = 1;
		break;
	default:
		keep_text_attribute(result, attribute);
		break;
	}
	return 0;
}

void hs_end(struct handshaked *handshake, int status, struct handshaked_result *result)
{
	result->status = status;
	handshake->over = true;
	if (handshake->callbacks->done)
		handshake->callbacks->done(handshake->context, result);
}

static void handle_done(struct handshaked *handshake, struct hs_reader attributes, struct handshaked_result *result)
{
	struct hs_attribute attribute;
	int failure = 0;

	result->status = EIO; /* if the message has no status */
	while (!failure && hs_next_attribute(&attributes, &attribute))
		failure = keep_attribute(result, &attribute);
	if (attributes.left && !failure)
		failure = EPROTO;
	hs_end(handshake, failure ? failure : result->status, result);
}

/* Handle an NLMSG_ERROR: an errno, the header of the request, and maybe a text (NLMSGERR_ATTR_MSG). */
static void handle_error(struct handshaked *handshake, struct hs_reader body, struct handshaked_result *result)
{
	struct hs_attribute attribute;
	uint32_t error;

	if (body.left < ERROR_HEADER) {
		hs_end(handshake, EPROTO, result);
		return;
	}
	memcpy(&error, body.data, sizeof(error));
	if (!error)
		return;
	body = (struct hs_reader){ body.data + ERROR_HEADER, body.left - ERROR_HEADER };
	while (hs_next_attribute(&body, &attribute))
		if (attribute.type == ERROR_TEXT)
			keep_text(result->reason, sizeof(result->reason), &attribute);
	hs_end(handshake, final_status(0 - error), result);
}

static void handle_crypto(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute attribute, data = { 0 };
	unsigned int level = HANDSHAKED_LEVEL_INITIAL;

	while (hs_next_attribute(&attributes, &attribute)) {
		if (attribute.type == HANDSHAKED_A_CRYPTO_LEVEL)
			level = hs_u32(&attribute);
		else if (attribute.type == HANDSHAKED_A_CRYPTO_DATA)
			data = attribute;
	}
	if (handshake->callbacks->crypto && data.data)
		handshake->callbacks->crypto(handshake->context, level, data.data, data.length);
}

static void handle_secret(struct handshaked *handshake, struct hs_reader attributes, struct handshaked_result *result)
{
	uint32_t numbers[HANDSHAKED_A_SECRET_SECRET + 1] = { 0 };
	struct hs_attribute attribute, secret = { 0 };

	while (hs_next_attribute(&attributes, &attribute)) {
		if (attribute.type == HANDSHAKED_A_SECRET_SECRET)
			secret = attribute;
		else if (attribute.type < HANDSHAKED_A_SECRET_SECRET)
			numbers[attribute.type] = hs_u32(&attribute);
	}
	if (!secret.length || secret.length > HS_MAX_SECRET)
		hs_end(handshake, EPROTO, result);
	else if (handshake->callbacks->secret)
		handshake->callbacks->secret(handshake->context, numbers[HANDSHAKED_A_SECRET_LEVEL],
					     numbers[HANDSHAKED_A_SECRET_DIRECTION],
					     numbers[HANDSHAKED_A_SECRET_CIPHER_SUITE], secret.data, secret.length);
}

static void handle_transport_parameters(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute attribute, parameters = { 0 };
	char alpn[256] = "";

	while (hs_next_attribute(&attributes, &attribute)) {
		if (attribute.type == HANDSHAKED_A_TRANSPORT_PARAMETERS_PARAMETERS)
			parameters = attribute;
		else if (attribute.type == HANDSHAKED_A_TRANSPORT_PARAMETERS_ALPN)
			keep_text(alpn, sizeof(alpn), &attribute);
	}
	if (handshake->callbacks->transport_parameters && parameters.data)
		handshake->callbacks->transport_parameters(handshake->context, parameters.data, parameters.length, alpn);
}

static void handle_session_ticket(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute attribute, state = { 0 };
	uint32_t expires = 0;

	while (hs_next_attribute(&attributes, &attribute)) {
		if (attribute.type == HANDSHAKED_A_SESSION_TICKET_STATE)
			state = attribute;
		else if (attribute.type == HANDSHAKED_A_SESSION_TICKET_EXPIRES)
			expires = hs_u32(&attribute);
	}
	if (handshake->callbacks->session_ticket && state.data)
		handshake->callbacks->session_ticket(handshake->context, state.data, state.length, expires);
}

void hs_handle_late(struct handshaked *handshake, const struct hs_frame *frame)
{
	if (frame->family == HANDSHAKED_UNIX_FAMILY && frame->command == HANDSHAKED_CMD_SESSION_TICKET)
		handle_session_ticket(handshake, frame->attributes);
}

void hs_handle(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result)
{
	if (frame->family == HS_NETLINK_ERROR)
		handle_error(handshake, frame->attributes, result);
	else if (frame->family != HANDSHAKED_UNIX_FAMILY)
		hs_end(handshake, EPROTO, result);
	else if (frame->command == HANDSHAKED_CMD_DONE)
		handle_done(handshake, frame->attributes, result);
	else if (frame->command == HANDSHAKED_CMD_CRYPTO)
		handle_crypto(handshake, frame->attributes);
	else if (frame->command == HANDSHAKED_CMD_SECRET)
		handle_secret(handshake, frame->attributes, result);
	else if (frame->command == HANDSHAKED_CMD_TRANSPORT_PARAMETERS)
		handle_transport_parameters(handshake, frame->attributes);
	else if (frame->command == HANDSHAKED_CMD_SESSION_TICKET)
		handle_session_ticket(handshake, frame->attributes);
}
