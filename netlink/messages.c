/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handshake.h"

#define MAX_ERRNO 4095
#define ERROR_HEADER (4 + 16)
#define ERROR_TEXT 1
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* What the daemon may send, with the limits of handshaked.yaml. Nothing that is missing has a default. */
static const struct hs_policy crypto_policies[] = {
	[HANDSHAKED_A_CRYPTO_LEVEL] = { HS_U32, HANDSHAKED_LEVEL_HANDSHAKE, .required = true }, /* none in 0-RTT */
	[HANDSHAKED_A_CRYPTO_DATA] = { HS_BYTES, HANDSHAKED_MAX_CRYPTO, .required = true },
};
static const struct hs_policy secret_policies[] = {
	[HANDSHAKED_A_SECRET_LEVEL] = { HS_U32, HANDSHAKED_LEVEL_EARLY, .required = true },
	[HANDSHAKED_A_SECRET_DIRECTION] = { HS_U32, HANDSHAKED_DIRECTION_SEND, .required = true },
	[HANDSHAKED_A_SECRET_CIPHER_SUITE] = { HS_U32, UINT16_MAX, .required = true },
	[HANDSHAKED_A_SECRET_SECRET] = { HS_BYTES, 48, .required = true },
};
static const struct hs_policy transport_parameters_policies[] = {
	[HANDSHAKED_A_TRANSPORT_PARAMETERS_PARAMETERS] = { HS_BYTES, UINT16_MAX, .required = true },
	[HANDSHAKED_A_TRANSPORT_PARAMETERS_ALPN] = { HS_TEXT, 255, .required = true },
};
static const struct hs_policy session_ticket_policies[] = {
	[HANDSHAKED_A_SESSION_TICKET_STATE] = { HS_BYTES, 65000, .required = true },
	[HANDSHAKED_A_SESSION_TICKET_EXPIRES] = { HS_U32, UINT32_MAX, .required = true },
	[HANDSHAKED_A_SESSION_TICKET_EARLY_DATA] = { HS_FLAG },
};
static const struct hs_policy done_policies[] = {
	[HANDSHAKED_A_DONE_STATUS] = { HS_U32, UINT32_MAX, .required = true },
	[HANDSHAKED_A_DONE_TAG] = { HS_TEXT, 255, .repeated = true },
	[HANDSHAKED_A_DONE_ALERT] = { HS_U32, UINT8_MAX },
	[HANDSHAKED_A_DONE_REASON] = { HS_TEXT, 1024 },
	[HANDSHAKED_A_DONE_ALPN] = { HS_TEXT, 255 },
	[HANDSHAKED_A_DONE_SERVER_NAME] = { HS_TEXT, 255 },
	[HANDSHAKED_A_DONE_REGISTRATION] = { HS_TEXT, 255 },
	[HANDSHAKED_A_DONE_CIPHER_SUITE] = { HS_U32, UINT16_MAX },
	[HANDSHAKED_A_DONE_RESUMED] = { HS_FLAG },
	[HANDSHAKED_A_DONE_PEER_CERTIFICATE] = { HS_BYTES, UINT16_MAX, .repeated = true },
	[HANDSHAKED_A_DONE_EARLY_DATA_ACCEPTED] = { HS_FLAG },
	[HANDSHAKED_A_DONE_QUIC_ERROR] = { HS_U32, INT32_MAX },
};
static const struct hs_policy close_policies[] = {
	[HANDSHAKED_A_CLOSE_QUIC_ERROR] = { HS_U32, INT32_MAX, .required = true },
	[HANDSHAKED_A_CLOSE_REASON] = { HS_TEXT, 1024 },
};
static const struct hs_policy error_policies[] = {
	[ERROR_TEXT] = { HS_TEXT, UINT16_MAX },
};

static void keep_text(char *text, size_t room, const struct hs_attribute *attribute)
{
	size_t length = attribute->length < room ? attribute->length : room - 1;

	if (attribute->data)
		memcpy(text, attribute->data, length);
	text[length] = '\0';
}

/* Store the tags, each with a newline. Those that do not fit are left out. */
static void keep_tags(struct handshaked_result *result, struct hs_reader attributes)
{
	struct hs_attribute attribute;
	size_t used = 0, length;

	while (hs_next_attribute(&attributes, &attribute)) {
		if (attribute.type != HANDSHAKED_A_DONE_TAG)
			continue;
		length = strnlen((const char *)attribute.data, attribute.length);
		if (length + 2 > sizeof(result->tags) - used)
			break;
		memcpy(result->tags + used, attribute.data, length);
		used += length;
		result->tags[used++] = '\n';
	}
	result->tags[used] = '\0';
}

/* Store the leaf certificate. Return 0 or a positive errno. */
static int keep_leaf(struct handshaked_result *result, const struct hs_attribute *leaf)
{
	if (!leaf->length)
		return 0;
	result->peer_certificate = malloc(leaf->length);
	if (!result->peer_certificate)
		return ENOMEM;
	memcpy(result->peer_certificate, leaf->data, leaf->length);
	result->peer_certificate_length = leaf->length;
	return 0;
}

/* Return a valid final status. EAGAIN is not one: -EAGAIN means that the handshake is in progress. */
static int final_status(uint32_t status)
{
	return status > MAX_ERRNO || status == EAGAIN ? EIO : (int)status;
}

void hs_end(struct handshaked *handshake, int status, struct handshaked_result *result)
{
	const bool takes_tickets = !status && handshake->ticket_ms;

	result->status = status;
	handshake->status = status; /* what counts, whatever the callback does to the result */
	handshake->state = takes_tickets ? HS_TICKETS : HS_OVER;
	if (takes_tickets)
		handshake->deadline = hs_now() + handshake->ticket_ms;
	if (handshake->callbacks.done)
		handshake->callbacks.done(handshake->context, result);
}

void hs_fail(struct handshaked *handshake, int status, const char *reason, struct handshaked_result *result)
{
	snprintf(result->reason, sizeof(result->reason), "%s", reason);
	hs_end(handshake, status, result);
}

void hs_end_malformed(struct handshaked *handshake, struct handshaked_result *result)
{
	if (handshake->state == HS_RUNNING)
		hs_fail(handshake, EPROTO, "malformed message from the handshake daemon", result);
	else
		handshake->state = HS_OVER;
}

/* Each of the following returns false if the message is malformed. */

static bool handle_done(struct handshaked *handshake, struct hs_reader attributes, struct handshaked_result *result)
{
	struct hs_attribute found[COUNT(done_policies)];
	int status;

	if (!hs_pull(attributes, done_policies, COUNT(found), found))
		return false;
	keep_text(result->reason, sizeof(result->reason), &found[HANDSHAKED_A_DONE_REASON]);
	keep_text(result->alpn, sizeof(result->alpn), &found[HANDSHAKED_A_DONE_ALPN]);
	keep_text(result->server_name, sizeof(result->server_name), &found[HANDSHAKED_A_DONE_SERVER_NAME]);
	keep_text(result->registration, sizeof(result->registration), &found[HANDSHAKED_A_DONE_REGISTRATION]);
	keep_tags(result, attributes);
	if (found[HANDSHAKED_A_DONE_ALERT].data)
		result->alert = (int)hs_u32(&found[HANDSHAKED_A_DONE_ALERT]);
	if (found[HANDSHAKED_A_DONE_QUIC_ERROR].data)
		result->quic_error = (int)hs_u32(&found[HANDSHAKED_A_DONE_QUIC_ERROR]);
	result->cipher_suite = hs_u32(&found[HANDSHAKED_A_DONE_CIPHER_SUITE]);
	result->resumed = found[HANDSHAKED_A_DONE_RESUMED].data != NULL;
	result->early_data_accepted = found[HANDSHAKED_A_DONE_EARLY_DATA_ACCEPTED].data != NULL;
	status = keep_leaf(result, &found[HANDSHAKED_A_DONE_PEER_CERTIFICATE]);
	hs_end(handshake, status ? status : final_status(hs_u32(&found[HANDSHAKED_A_DONE_STATUS])), result);
	return true;
}

/* Handle an NLMSG_ERROR: an errno, the header of the request, and maybe a text (NLMSGERR_ATTR_MSG). */
static bool handle_error(struct handshaked *handshake, struct hs_reader body, struct handshaked_result *result)
{
	struct hs_attribute found[COUNT(error_policies)];
	uint32_t error;

	if (body.left < ERROR_HEADER)
		return false;
	memcpy(&error, body.data, sizeof(error));
	if (!error)
		return true;
	body = (struct hs_reader){ body.data + ERROR_HEADER, body.left - ERROR_HEADER };
	if (!hs_pull(body, error_policies, COUNT(found), found))
		return false;
	keep_text(result->reason, sizeof(result->reason), &found[ERROR_TEXT]);
	hs_end(handshake, final_status(0 - error), result);
	return true;
}

static bool handle_crypto(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute found[COUNT(crypto_policies)];
	const struct hs_attribute *data = &found[HANDSHAKED_A_CRYPTO_DATA];

	if (!hs_pull(attributes, crypto_policies, COUNT(found), found))
		return false;
	if (handshake->callbacks.crypto)
		handshake->callbacks.crypto(handshake->context, hs_u32(&found[HANDSHAKED_A_CRYPTO_LEVEL]), data->data,
					    data->length);
	return true;
}

/* Return the length of the traffic secrets of a cipher suite, 0 if TLS 1.3 has no such suite. */
static size_t secret_length(uint32_t cipher_suite)
{
	switch (cipher_suite) {
	case HANDSHAKED_CIPHER_SUITE_AES_256_GCM_SHA384:
		return 48;
	case HANDSHAKED_CIPHER_SUITE_AES_128_GCM_SHA256:
	case HANDSHAKED_CIPHER_SUITE_CHACHA20_POLY1305_SHA256:
	case HANDSHAKED_CIPHER_SUITE_AES_128_CCM_SHA256:
		return 32;
	default:
		return 0;
	}
}

/* Return whether a handshake gets a secret of this level and direction, now. Each comes once. */
static bool takes_secret(struct handshaked *handshake, uint32_t level, uint32_t direction)
{
	const unsigned int bit = 1u << (2 * level + direction);
	const bool sends_early = handshake->role == HANDSHAKED_CLIENT;

	if (level == HANDSHAKED_LEVEL_INITIAL || handshake->secrets & bit)
		return false; /* initial keys are derived from a connection ID (RFC 9001 section 5.2) */
	if (level == HANDSHAKED_LEVEL_EARLY && sends_early != (direction == HANDSHAKED_DIRECTION_SEND))
		return false;
	handshake->secrets |= bit;
	return true;
}

static bool handle_secret(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute found[COUNT(secret_policies)];
	const struct hs_attribute *secret = &found[HANDSHAKED_A_SECRET_SECRET];
	uint32_t level, direction, suite;

	if (!hs_pull(attributes, secret_policies, COUNT(found), found))
		return false;
	level = hs_u32(&found[HANDSHAKED_A_SECRET_LEVEL]);
	direction = hs_u32(&found[HANDSHAKED_A_SECRET_DIRECTION]);
	suite = hs_u32(&found[HANDSHAKED_A_SECRET_CIPHER_SUITE]);
	if (!secret->length || secret->length != secret_length(suite) || !takes_secret(handshake, level, direction))
		return false;
	if (handshake->callbacks.secret)
		handshake->callbacks.secret(handshake->context, level, direction, suite, secret->data, secret->length);
	return true;
}

static bool handle_transport_parameters(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute found[COUNT(transport_parameters_policies)];
	const struct hs_attribute *parameters = &found[HANDSHAKED_A_TRANSPORT_PARAMETERS_PARAMETERS];
	char alpn[256];

	if (!hs_pull(attributes, transport_parameters_policies, COUNT(found), found))
		return false;
	keep_text(alpn, sizeof(alpn), &found[HANDSHAKED_A_TRANSPORT_PARAMETERS_ALPN]);
	if (handshake->callbacks.transport_parameters)
		handshake->callbacks.transport_parameters(handshake->context, parameters->data, parameters->length, alpn);
	return true;
}

static bool handle_session_ticket(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute found[COUNT(session_ticket_policies)];
	const struct hs_attribute *state = &found[HANDSHAKED_A_SESSION_TICKET_STATE];

	if (!hs_pull(attributes, session_ticket_policies, COUNT(found), found))
		return false;
	if (handshake->callbacks.session_ticket)
		handshake->callbacks.session_ticket(handshake->context, state->data, state->length,
						    hs_u32(&found[HANDSHAKED_A_SESSION_TICKET_EXPIRES]));
	return true;
}

static bool handle_close(struct handshaked *handshake, struct hs_reader attributes)
{
	struct hs_attribute found[COUNT(close_policies)];
	char reason[256];

	if (!hs_pull(attributes, close_policies, COUNT(found), found))
		return false;
	keep_text(reason, sizeof(reason), &found[HANDSHAKED_A_CLOSE_REASON]);
	handshake->state = HS_OVER;
	if (handshake->callbacks.close)
		handshake->callbacks.close(handshake->context, (int)hs_u32(&found[HANDSHAKED_A_CLOSE_QUIC_ERROR]), reason);
	return true;
}

static bool handle(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result)
{
	const bool is_running = handshake->state == HS_RUNNING;

	if (frame->family == HS_NETLINK_ERROR)
		return is_running ? handle_error(handshake, frame->attributes, result) : true;
	if (frame->family != HANDSHAKED_UNIX_FAMILY || frame->version != HANDSHAKED_FAMILY_VERSION)
		return false;
	if (frame->command == HANDSHAKED_CMD_SESSION_TICKET)
		return handle_session_ticket(handshake, frame->attributes);
	if (frame->command == HANDSHAKED_CMD_CLOSE)
		return !is_running && handle_close(handshake, frame->attributes);
	if (!is_running)
		return true; /* only session tickets, and their errors, count after the end */
	switch (frame->command) {
	case HANDSHAKED_CMD_DONE:
		return handle_done(handshake, frame->attributes, result);
	case HANDSHAKED_CMD_CRYPTO:
		return handle_crypto(handshake, frame->attributes);
	case HANDSHAKED_CMD_SECRET:
		return handle_secret(handshake, frame->attributes);
	case HANDSHAKED_CMD_TRANSPORT_PARAMETERS:
		return handle_transport_parameters(handshake, frame->attributes);
	default:
		return false;
	}
}

void hs_handle(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result)
{
	if (!handle(handshake, frame, result))
		hs_end_malformed(handshake, result);
}
