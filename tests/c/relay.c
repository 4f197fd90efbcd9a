/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * relay NAME ALPN: a client and a server in one process that pass each other their CRYPTO data, twice: the second time
 * the client resumes with its session ticket.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "handshaked.h"

struct side {
	const char *name;
	struct handshaked *own, *other;
	int secrets, status, over, tickets;
	uint8_t sent[48], received[48]; /* secrets of level application */
};

static uint8_t ticket[65536];
static struct handshaked_bytes kept;

static void crypto(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	struct side *side = context;

	if (side->other)
		handshaked_relay_crypto(side->other, level, data, length);
}

static void secret(void *context, unsigned int level, unsigned int direction, uint32_t suite, const uint8_t *bytes,
		   size_t length)
{
	struct side *side = context;

	side->secrets++;
	if (level == 0 && suite && length <= sizeof(side->sent))
		memcpy(direction ? side->sent : side->received, bytes, length);
}

static void parameters(void *context, const uint8_t *bytes, size_t length, const char *alpn)
{
	struct side *side = context;

	printf("%s: %.*s %s\n", side->name, (int)length, (const char *)bytes, alpn);
	if (!strcmp(side->name, "server"))
		handshaked_relay_transport_parameters(side->own, (const uint8_t *)"of the server", 13);
}

static void keep(void *context, const uint8_t *state, size_t length, uint32_t expires)
{
	struct side *side = context;

	if (!expires || length > sizeof(ticket))
		return;
	memcpy(ticket, state, length);
	kept = (struct handshaked_bytes){ ticket, length };
	side->tickets++;
}

static void done(void *context, const struct handshaked_result *result)
{
	struct side *side = context;

	side->over = 1;
	side->status = result->status;
	printf("%s: %d %s%s\n", side->name, result->status, result->registration, result->resumed ? " resumed" : "");
}

static const struct handshaked_callbacks callbacks = {
	.size = sizeof(callbacks), .crypto = crypto, .secret = secret, .transport_parameters = parameters, .session_ticket = keep, .done = done
};

static void run_both(struct side *client, struct side *server)
{
	struct pollfd ready[] = { { handshaked_fd(client->own), POLLIN, 0 }, { handshaked_fd(server->own), POLLIN, 0 } };

	while (!client->status && !server->status && !(client->over && server->over && client->tickets)) {
		poll(ready, 2, 20000);
		handshaked_continue(client->own, NULL);
		if (!server->over)
			handshaked_continue(server->own, NULL);
	}
}

static int handshake(const char *name, const char *alpn)
{
	struct side client = { .name = "client" }, server = { .name = "server" };
	struct handshaked_options options = { .size = sizeof(options), .unauthenticated = 1, .ticket_seconds = 20 };
	const uint8_t *own = (const uint8_t *)"of the client";

	options.server_name = name;
	options.alpns = alpn;
	options.session_ticket = kept;
	if (handshaked_relay_start(HANDSHAKED_SERVER, NULL, NULL, 0, &callbacks, &server, NULL, &server.own))
		return 3;
	if (handshaked_relay_start(HANDSHAKED_CLIENT, &options, own, 13, &callbacks, &client, NULL, &client.own))
		return 4;
	client.other = server.own;
	server.other = client.own;
	run_both(&client, &server);
	handshaked_free(client.own);
	handshaked_free(server.own);
	if (client.status || server.status)
		return 5;
	printf("secrets: %d %d %s\n", client.secrets, server.secrets,
	       !memcmp(client.sent, server.received, 48) && !memcmp(client.received, server.sent, 48) ? "agree" : "differ");
	return 0;
}

int main(int argc, char **argv)
{
	int status;

	if (argc != 3)
		return 2;
	status = handshake(argv[1], argv[2]);
	return status ? status : handshake(argv[1], argv[2]);
}
