/* SPDX-License-Identifier: BSD-3-Clause */
/* handshake ROLE FD [KEY=VALUE ..]: do a handshake with options, blocking or with poll; print the result. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "handshaked.h"

/* Do the handshake with poll. With `late`, continue after its end while messages may arrive. */
static int polled(int fd, int role, const struct handshaked_options *options, struct handshaked_result *result, int late)
{
	struct handshaked *handshake;
	struct pollfd ready = { .events = POLLIN };
	int status = handshaked_quic_start(fd, role, options, result, &handshake);

	if (status)
		return status;
	ready.fd = handshaked_fd(handshake);
	while ((status = handshaked_continue(handshake, result)) == -EAGAIN)
		poll(&ready, 1, handshaked_timeout(handshake));
	while (late && handshaked_continue(handshake, NULL) == -EAGAIN)
		poll(&ready, 1, handshaked_timeout(handshake));
	handshaked_free(handshake);
	return status;
}

/* Read a file into static memory. */
static struct handshaked_bytes content(const char *path)
{
	static uint8_t room[2][8192];
	static int used;
	struct handshaked_bytes bytes = { room[used], 0 };
	FILE *file = fopen(path, "rb");

	if (!file || used == 2)
		exit(3);
	bytes.length = fread(room[used++], 1, sizeof(room[0]), file);
	fclose(file);
	return bytes;
}

static void ignore(int number)
{
	(void)number;
}

/* Send this process a signal every millisecond, without SA_RESTART. */
static void send_signals(void)
{
	struct sigaction action = { .sa_handler = ignore };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	struct itimerspec often = { { 0, 1000000 }, { 0, 1000000 } };
	timer_t timer;

	if (sigaction(SIGALRM, &action, NULL) || timer_create(CLOCK_MONOTONIC, &event, &timer) ||
	    timer_settime(timer, 0, &often, NULL))
		exit(3);
}

int main(int argc, char **argv)
{
	struct handshaked_options options = { .size = sizeof(options) };
	struct handshaked_result result = { .size = sizeof(result) };
	struct handshaked_bytes anchor;
	int role = strcmp(argv[1], "client") ? HANDSHAKED_SERVER : HANDSHAKED_CLIENT;
	int fd = atoi(argv[2]), poll_it = 0, late = 0, status;

	for (int i = 3; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			return 2;
		*value++ = '\0';
		if (!strcmp(argv[i], "name"))
			options.server_name = value;
		else if (!strcmp(argv[i], "alpns"))
			options.alpns = value;
		else if (!strcmp(argv[i], "certificate"))
			options.certificate_file = value;
		else if (!strcmp(argv[i], "key"))
			options.key_file = value;
		else if (!strcmp(argv[i], "psk"))
			options.psk_file = value;
		else if (!strcmp(argv[i], "registration"))
			options.registration = value;
		else if (!strcmp(argv[i], "socket"))
			options.socket_path = value;
		else if (!strcmp(argv[i], "timeout"))
			options.timeout_ms = (unsigned int)atoi(value);
		else if (!strcmp(argv[i], "tickets"))
			options.ticket_seconds = (unsigned int)atoi(value);
		else if (!strcmp(argv[i], "unauthenticated"))
			options.unauthenticated = atoi(value);
		else if (!strcmp(argv[i], "trust")) {
			anchor = content(value);
			options.trust_anchors = &anchor;
			options.trust_anchor_count = 1;
		} else if (!strcmp(argv[i], "ticket"))
			options.session_ticket = content(value);
		else if (!strcmp(argv[i], "signals"))
			send_signals();
		else if (!strcmp(argv[i], "poll"))
			poll_it = atoi(value);
		else if (!strcmp(argv[i], "late"))
			late = atoi(value);
		else
			return 2;
	}
	if (poll_it)
		status = polled(fd, role, &options, &result, late);
	else if (role == HANDSHAKED_CLIENT)
		status = handshaked_quic_client(fd, &options, &result);
	else
		status = handshaked_quic_server(fd, &options, &result);
	for (char *at = result.tags; (at = strchr(at, '\n')); at++)
		*at = ',';
	printf("%d alert=%d alpn=%s registration=%s name=%s suite=%x resumed=%d early=%d tags=%s peer=%zu reason=%s\n",
	       status, result.alert, result.alpn, result.registration, result.server_name,
	       (unsigned int)result.cipher_suite, result.resumed, result.early_data_accepted, result.tags,
	       result.peer_certificate_length, result.reason);
	handshaked_result_clear(&result);
	return 0;
}
