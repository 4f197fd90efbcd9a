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

/* -EAGAIN stands for a handshake that goes on, so it is no way to end one. */
static int ending(uint32_t status)
{
	return status > MAX_ERRNO || status == EAGAIN ? EIO : (int)status;
}

/* 0, or an errno if what is to be kept cannot be. */
static int keep(struct handshaked_result *result, const struct hs_attribute *attribute)
{
	switch (attribute->type) {
	case HANDSHAKED_A_DONE_STATUS:
		if (attribute->length != sizeof(uint32_t))
			return EPROTO;
		result->status = ending(hs_u32(attribute));
		break;
	case HANDSHAKED_A_DONE_TAG:
		keep_tag(result, attribute);
		break;
	case HANDSHAKED_A_DONE_ALERT:
		result->alert = (int)hs_u32(attribute);
		break;
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
		break;
	}
	return 0;
}

void hs_fail(struct handshaked *handshake, int status, struct handshaked_result *result)
{
	result->status = status;
	handshake->over = true;
	if (handshake->callbacks->done)
		handshake->callbacks->done(handshake->context, result);
}

static void done(struct handshaked *handshake, struct hs_reader attributes, struct handshaked_result *result)
{
	struct hs_attribute attribute;
	int failure = 0;

	result->status = EIO; /* unless it says otherwise */
	while (!failure && hs_next_attribute(&attributes, &attribute))
		failure = keep(result, &attribute);
	if (attributes.left && !failure)
		failure = EPROTO;
	hs_fail(handshake, failure ? failure : result->status, result);
}

/* An errno, the header of what it is about, and maybe a text (NLMSGERR_ATTR_MSG). */
static void refused(struct handshaked *handshake, struct hs_reader body, struct handshaked_result *result)
{
	struct hs_attribute attribute;
	uint32_t error;

	if (body.left < ERROR_HEADER) {
		hs_fail(handshake, EPROTO, result);
		return;
	}
	memcpy(&error, body.data, sizeof(error));
	if (!error)
		return;
	body = (struct hs_reader){ body.data + ERROR_HEADER, body.left - ERROR_HEADER };
	while (hs_next_attribute(&body, &attribute))
		if (attribute.type == ERROR_TEXT)
			keep_text(result->reason, sizeof(result->reason), &attribute);
	hs_fail(handshake, ending(0 - error), result);
}

static void give_crypto(struct handshaked *handshake, struct hs_reader attributes)
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

static void give_secret(struct handshaked *handshake, struct hs_reader attributes, struct handshaked_result *result)
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
		hs_fail(handshake, EPROTO, result);
	else if (handshake->callbacks->secret)
		handshake->callbacks->secret(handshake->context, numbers[HANDSHAKED_A_SECRET_LEVEL],
					     numbers[HANDSHAKED_A_SECRET_DIRECTION],
					     numbers[HANDSHAKED_A_SECRET_CIPHER_SUITE], secret.data, secret.length);
}

static void give_parameters(struct handshaked *handshake, struct hs_reader attributes)
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

static void give_ticket(struct handshaked *handshake, struct hs_reader attributes)
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

void hs_take_late(struct handshaked *handshake, const struct hs_frame *frame)
{
	if (frame->family == HANDSHAKED_UNIX_FAMILY && frame->command == HANDSHAKED_CMD_SESSION_TICKET)
		give_ticket(handshake, frame->attributes);
}

void hs_take(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result)
{
	if (frame->family == HS_NETLINK_ERROR)
		refused(handshake, frame->attributes, result);
	else if (frame->family != HANDSHAKED_UNIX_FAMILY)
		hs_fail(handshake, EPROTO, result);
	else if (frame->command == HANDSHAKED_CMD_DONE)
		done(handshake, frame->attributes, result);
	else if (frame->command == HANDSHAKED_CMD_CRYPTO)
		give_crypto(handshake, frame->attributes);
	else if (frame->command == HANDSHAKED_CMD_SECRET)
		give_secret(handshake, frame->attributes, result);
	else if (frame->command == HANDSHAKED_CMD_TRANSPORT_PARAMETERS)
		give_parameters(handshake, frame->attributes);
	else if (frame->command == HANDSHAKED_CMD_SESSION_TICKET)
		give_ticket(handshake, frame->attributes);
}
