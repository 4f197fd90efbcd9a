/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Integrate a userspace QUIC stack: stack SERVER_NAME ALPN
 *
 * Two endpoints in one process do a handshake with each other. A stack would put the CRYPTO data into packets,
 * protected with the secrets it was given; here the endpoints call each other. The client does not verify the server.
 *
 * cc stack.c $(pkg-config --cflags --libs libhandshaked)
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include <handshaked.h>

struct endpoint {
	const char *name;
	const char *transport_parameters; /* encoded (RFC 9000 section 18) */
	struct handshaked *handshake;
	struct endpoint *peer;
	int over;
};

static void on_crypto(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	struct endpoint *endpoint = context;

	if (endpoint->peer && !endpoint->peer->over) /* send it in CRYPTO frames at that level */
		handshaked_relay_crypto(endpoint->peer->handshake, level, data, length);
}

static void on_secret(void *context, unsigned int level, unsigned int direction, uint32_t cipher_suite,
		      const uint8_t *secret, size_t length)
{
	/* Derive packet protection keys (RFC 9001 section 5.1). */
	(void)context, (void)level, (void)direction, (void)cipher_suite, (void)secret, (void)length;
}

static void on_server_transport_parameters(void *context, const uint8_t *parameters, size_t length, const char *alpn)
{
	struct endpoint *endpoint = context;
	const char *own = endpoint->transport_parameters;

	(void)parameters, (void)length, (void)alpn; /* those of the client */
	handshaked_relay_transport_parameters(endpoint->handshake, (const uint8_t *)own, strlen(own));
}

static void on_done(void *context, const struct handshaked_result *result)
{
	struct endpoint *endpoint = context;

	endpoint->over = 1;
	if (result->status) /* close the connection with result->quic_error */
		printf("%s: failed: %s\n", endpoint->name, result->reason);
	else
		printf("%s: ALPN %s%s%s\n", endpoint->name, result->alpn, *result->registration ? ", registration " : "",
		       result->registration);
}

static const struct handshaked_callbacks client_callbacks = {
	.size = sizeof(client_callbacks), .crypto = on_crypto, .secret = on_secret, .done = on_done
};
static const struct handshaked_callbacks server_callbacks = {
	.size = sizeof(server_callbacks), .crypto = on_crypto, .secret = on_secret, .done = on_done,
	.transport_parameters = on_server_transport_parameters
};

/* Handle what the daemon has sent. Return 0 if the handshake goes on or has succeeded, else a negative errno. */
static int advance(struct endpoint *endpoint)
{
	int error = endpoint->over ? 0 : handshaked_continue(endpoint->handshake, NULL);

	return error == -EAGAIN ? 0 : error;
}

int main(int argc, char **argv)
{
	struct endpoint client = { .name = "client", .transport_parameters = "client's" };
	struct endpoint server = { .name = "server", .transport_parameters = "server's", .peer = &client };
	struct handshaked_options options = { .size = sizeof(options), .unauthenticated = 1 };
	struct handshaked_result result = { .size = sizeof(result) };
	struct pollfd ready[2] = { { .events = POLLIN }, { .events = POLLIN } };
	int error;

	if (argc != 3)
		return 2;
	client.peer = &server;
	options.server_name = argv[1];
	options.alpns = argv[2];
	error = handshaked_relay_start(HANDSHAKED_SERVER, NULL, NULL, 0, &server_callbacks, &server, &result,
				       &server.handshake);
	if (!error)
		error = handshaked_relay_start(HANDSHAKED_CLIENT, &options,
					       (const uint8_t *)client.transport_parameters,
					       strlen(client.transport_parameters), &client_callbacks, &client, &result,
					       &client.handshake);
	while (!error && !(client.over && server.over)) {
		ready[0].fd = client.over ? -1 : handshaked_fd(client.handshake);
		ready[1].fd = server.over ? -1 : handshaked_fd(server.handshake);
		poll(ready, 2, handshaked_timeout(client.over ? server.handshake : client.handshake));
		error = advance(&client);
		if (!error)
			error = advance(&server);
	}
	if (error)
		fprintf(stderr, "handshake failed: %s (%s)\n", strerror(-error), result.reason);
	handshaked_free(client.handshake);
	handshaked_free(server.handshake);
	return error ? 1 : 0;
}
