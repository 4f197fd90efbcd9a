/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "handshake.h"

#define ATTRIBUTES (4 + 4 + 4) /* the attribute level, and the header of the attribute data */
#define PADDING 3

EXPORTED int handshaked_relay_start(int role, const struct handshaked_options *options,
				    const uint8_t *transport_parameters, size_t length,
				    const struct handshaked_callbacks *callbacks, void *context,
				    struct handshaked_result *result, struct handshaked **handshake)
{
	const struct hs_start start = {
		.role = role, .is_relay = true, .options = options,
		.transport_parameters = { transport_parameters, length },
		.callbacks = callbacks, .context = context
	};

	return hs_open(&start, result, handshake);
}

static int send_crypto(struct handshaked *handshake, unsigned int level, const struct handshaked_bytes *data,
		       int64_t deadline)
{
	size_t room = HS_HEADER + ATTRIBUTES + data->length + PADDING; /* at most HANDSHAKED_MAX_CRYPTO and a little */
	uint8_t *buffer = malloc(room);
	struct hs_message message;
	int failure;

	if (!buffer)
		return -ENOMEM;
	hs_begin(&message, buffer, room, HANDSHAKED_CMD_CRYPTO);
	hs_put_u32(&message, HANDSHAKED_A_CRYPTO_LEVEL, level);
	hs_put(&message, HANDSHAKED_A_CRYPTO_DATA, data->data, data->length);
	failure = hs_send(handshake->sock, &message, NULL, 0, deadline);
	explicit_bzero(buffer, room); /* it may contain a session ticket */
	free(buffer);
	return failure;
}

EXPORTED int handshaked_relay_crypto(struct handshaked *handshake, unsigned int level, const uint8_t *data,
				     size_t length)
{
	const int64_t deadline = hs_now() + HS_SEND_MS; /* for all pieces */
	struct handshaked_bytes piece = { data, 0 };
	int failure;

	if (level > HANDSHAKED_LEVEL_HANDSHAKE || (length && !data))
		return -EINVAL; /* 0-RTT packets have no CRYPTO frames (RFC 9000 section 12.4) */
	for (; length; piece.data += piece.length, length -= piece.length) {
		piece.length = length < HANDSHAKED_MAX_CRYPTO ? length : HANDSHAKED_MAX_CRYPTO;
		failure = send_crypto(handshake, level, &piece, deadline);
		if (failure)
			return failure;
	}
	return 0;
}

EXPORTED int handshaked_relay_transport_parameters(struct handshaked *handshake, const uint8_t *data, size_t length)
{
	uint8_t buffer[HS_HEADER + 4 + HS_MAX_TRANSPORT_PARAMETERS];
	struct hs_message message;

	hs_begin(&message, buffer, sizeof(buffer), HANDSHAKED_CMD_TRANSPORT_PARAMETERS);
	hs_put(&message, HANDSHAKED_A_TRANSPORT_PARAMETERS_PARAMETERS, data, length);
	return hs_send(handshake->sock, &message, NULL, 0, hs_now() + HS_SEND_MS);
}
