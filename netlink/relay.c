/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>

#include "handshake.h"

#define ATTRIBUTES (4 + 4 + 4) /* the attribute level, and the header of the attribute data */
#define PADDING 3

EXPORTED int handshaked_relay_start(int role, const struct handshaked_options *options,
				    const uint8_t *transport_parameters, size_t length,
				    const struct handshaked_callbacks *callbacks, void *context,
				    struct handshaked **handshake)
{
	const struct hs_start start = {
		.role = role, .is_relay = true, .options = options,
		.transport_parameters = { transport_parameters, length }
	};
	struct handshaked_result unused;
	int failure = hs_open(&start, handshake, &unused);

	if (failure)
		return failure;
	if (callbacks)
		(*handshake)->callbacks = callbacks;
	(*handshake)->context = context;
	return 0;
}

static int send_crypto(struct handshaked *handshake, unsigned int level, const uint8_t *data, size_t length)
{
	size_t room = HS_HEADER + ATTRIBUTES + length + PADDING;
	uint8_t *buffer = malloc(room);
	struct hs_message message;
	int failure;

	if (!buffer)
		return -ENOMEM;
	hs_begin(&message, buffer, room, HANDSHAKED_CMD_CRYPTO);
	hs_put_u32(&message, HANDSHAKED_A_CRYPTO_LEVEL, level);
	hs_put(&message, HANDSHAKED_A_CRYPTO_DATA, data, length);
	failure = hs_send(handshake->sock, &message, NULL, 0);
	free(buffer);
	return failure;
}

EXPORTED int handshaked_relay_crypto(struct handshaked *handshake, unsigned int level, const uint8_t *data,
				     size_t length)
{
	size_t piece;
	int failure;

	for (; length; data += piece, length -= piece) {
		piece = length < HANDSHAKED_MAX_CRYPTO ? length : HANDSHAKED_MAX_CRYPTO;
		failure = send_crypto(handshake, level, data, piece);
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
	return hs_send(handshake->sock, &message, NULL, 0);
}
