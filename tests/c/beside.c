/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * beside SOCKET: start handshakes with the daemon and wait for their ClientHello, alone and then beside a handshake with
 * a hostile daemon at SOCKET. Print the p99 of both in microseconds.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "handshaked.h"

enum { ROUNDS = 50, HOSTILE_MS = 30000, WORK_MICROSECONDS = 50 };

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(3);
}

static struct handshaked *start(const struct handshaked_options *options, const struct handshaked_callbacks *callbacks,
				int *received)
{
	struct handshaked_result result = { .size = sizeof(result) };
	struct handshaked *handshake;

	if (handshaked_relay_start(HANDSHAKED_CLIENT, options, (const uint8_t *)"own", 3, callbacks, received, &result,
				   &handshake))
		die(result.reason);
	return handshake;
}

static void note(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	(void)level, (void)data, (void)length;
	*(int *)context = 1;
}

static int64_t microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* Return how long a ClientHello takes, while `hostile` is served, too, unless it is NULL. */
static int64_t hello(struct handshaked *hostile)
{
	const struct handshaked_callbacks callbacks = { .size = sizeof(callbacks), .crypto = note };
	const struct handshaked_options options = { .size = sizeof(options), .server_name = "one.example.com",
						    .alpns = "h3", .unauthenticated = 1 };
	const int64_t started = microseconds();
	int received = 0;
	struct handshaked *honest = start(&options, &callbacks, &received);
	struct pollfd ready[] = { { handshaked_fd(honest), POLLIN, 0 }, { -1, POLLIN, 0 } };

	if (hostile)
		ready[1].fd = handshaked_fd(hostile);
	while (!received) {
		if (poll(ready, 2, handshaked_timeout(honest)) <= 0)
			die("the daemon does not answer");
		if (ready[1].revents && handshaked_continue(hostile, NULL) != -EAGAIN)
			die("the hostile daemon's handshake is over");
		if (ready[0].revents && handshaked_continue(honest, NULL) != -EAGAIN)
			die("the handshake is over");
	}
	handshaked_free(honest);
	return microseconds() - started;
}

/* What the program does with the data takes longer than sending it. */
static void work(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	const int64_t end = microseconds() + WORK_MICROSECONDS;

	(void)context, (void)level, (void)data, (void)length;
	while (microseconds() < end)
		;
}

static int compare(const void *one, const void *other)
{
	const int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;

	return (a > b) - (a < b);
}

static long p99(struct handshaked *hostile)
{
	int64_t times[ROUNDS];

	for (int i = 0; i < ROUNDS; i++)
		times[i] = hello(hostile);
	qsort(times, ROUNDS, sizeof(times[0]), compare);
	return (long)times[(ROUNDS * 99 + 99) / 100 - 1];
}

int main(int argc, char **argv)
{
	const struct handshaked_callbacks callbacks = { .size = sizeof(callbacks), .crypto = work };
	struct handshaked_options options = { .size = sizeof(options), .timeout_ms = HOSTILE_MS };
	struct handshaked *hostile;

	if (argc != 2)
		return 2;
	options.socket_path = argv[1];
	printf("%ld ", p99(NULL));
	hostile = start(&options, &callbacks, NULL);
	printf("%ld\n", p99(hostile));
	handshaked_free(hostile);
	return 0;
}
