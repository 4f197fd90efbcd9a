/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Do the server's handshake on the QUIC socket that is standard input, as inetd or systemd (StandardInput=socket)
 * passes it, with the certificate registered for the client's server name and protocol.
 *
 * cc quic_server.c $(pkg-config --cflags --libs libhandshaked)
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <handshaked.h>

int main(void)
{
	struct handshaked_options options = { .size = sizeof(options), .timeout_ms = 5000 };
	struct handshaked_result result = { .size = sizeof(result) };
	int error = handshaked_quic_server(STDIN_FILENO, &options, &result);

	if (error)
		fprintf(stderr, "handshake failed: %s (%s)\n", strerror(-error), result.reason);
	else
		printf("ALPN %s, registration %s\n", result.alpn, result.registration);
	/* After success the socket is ready for sendmsg and recvmsg. */
	handshaked_result_clear(&result);
	return error ? 1 : 0;
}
