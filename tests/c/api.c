/* SPDX-License-Identifier: BSD-3-Clause */
/* api MODE [ARGUMENT]: a relayed handshake with a daemon that misbehaves, or by a caller that does; print what happens. */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "handshaked.h"

struct state {
	struct handshaked *handshake;
	int tickets;
	int freed;
};

static void die(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(3);
}

/* Start a handshake of which `callbacks` may be NULL. */
static void start(struct state *state, int role, const struct handshaked_options *options,
		  const struct handshaked_callbacks *callbacks)
{
	struct handshaked_result result = { .size = sizeof(result) };
	const uint8_t *own = (const uint8_t *)"own";

	if (handshaked_relay_start(role, options, own, 3, callbacks, state, &result, &state->handshake))
		die(result.reason);
}

/* Continue until the handshake is over. Return its status. */
static int finish(struct handshaked *handshake, struct handshaked_result *result)
{
	struct pollfd ready = { handshaked_fd(handshake), POLLIN, 0 };
	int status;

	while ((status = handshaked_continue(handshake, result)) == -EAGAIN)
		poll(&ready, 1, handshaked_timeout(handshake));
	return status;
}

/* Lengths near SIZE_MAX, and data that is not there. */
static void lengths(void)
{
	static const size_t long_ones[] = { SIZE_MAX, SIZE_MAX - 3, SIZE_MAX - 4, 1u << 31, 65532, 65531 };
	static uint8_t byte;
	struct handshaked_options options = { .size = sizeof(options) };
	struct handshaked_bytes bytes = { &byte, 0 };
	struct handshaked *handshake;
	struct state state;

	start(&state, HANDSHAKED_SERVER, NULL, NULL);
	options.trust_anchors = &bytes;
	options.trust_anchor_count = 1;
	for (size_t i = 0; i < 6; i++) {
		bytes.length = long_ones[i];
		printf("%d ", handshaked_relay_transport_parameters(state.handshake, &byte, bytes.length));
		if (bytes.length > 65531)
			printf("%d ", handshaked_relay_start(HANDSHAKED_CLIENT, &options, &byte, 1, NULL, NULL, NULL,
							     &handshake));
	}
	bytes = (struct handshaked_bytes){ NULL, 5 };
	printf("%d ", handshaked_relay_start(HANDSHAKED_CLIENT, &options, &byte, 1, NULL, NULL, NULL, &handshake));
	printf("%d ", handshaked_relay_crypto(state.handshake, 1, NULL, 5));
	printf("%d\n", handshaked_relay_crypto(state.handshake, 3, &byte, 1));
	handshaked_free(state.handshake);
}

static void use_own_handshake(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	struct state *state = context;

	(void)level, (void)data, (void)length;
	printf("callback: %d", handshaked_continue(state->handshake, NULL));
	printf(" %d", handshaked_relay_crypto(state->handshake, 1, (const uint8_t *)"more", 4));
	printf(" %d", handshaked_relay_transport_parameters(state->handshake, (const uint8_t *)"own", 3));
	printf(" %d %d\n", handshaked_fd(state->handshake) >= 0, handshaked_timeout(state->handshake) > 0);
}

/* A careless callback that gets rid of its result. */
static void clear_result(void *context, const struct handshaked_result *result)
{
	(void)context;
	printf("done: %d %d\n", result->status, result->size == sizeof(*result));
	handshaked_result_clear((struct handshaked_result *)result);
}

static void reenter(void)
{
	const struct handshaked_callbacks callbacks = {
		.size = sizeof(callbacks), .crypto = use_own_handshake, .done = clear_result
	};
	struct handshaked_result result = { .size = sizeof(result) };
	struct state state;
	int status;

	start(&state, HANDSHAKED_SERVER, NULL, &callbacks);
	status = finish(state.handshake, &result);
	printf("outer: %d %d\n", status, result.status);
	handshaked_result_clear(&result);
	handshaked_free(state.handshake);
}

static void free_in_crypto(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	struct state *state = context;

	(void)level, (void)data, (void)length;
	printf("callback\n");
	handshaked_free(state->handshake);
}

static void free_in_done(void *context, const struct handshaked_result *result)
{
	struct state *state = context;

	printf("done: %d\n", result->status);
	handshaked_free(state->handshake);
}

static void free_in_callback(int at_end)
{
	const struct handshaked_callbacks callbacks = {
		.size = sizeof(callbacks), .crypto = at_end ? NULL : free_in_crypto, .done = free_in_done
	};
	struct handshaked_result result = { .size = sizeof(result) };
	struct state state;
	int status;

	start(&state, HANDSHAKED_SERVER, NULL, &callbacks);
	status = finish(state.handshake, &result);
	printf("outer: %d %d\n", status, result.status);
	handshaked_result_clear(&result);
}

static void count_ticket(void *context, const uint8_t *bytes, size_t length, uint32_t expires)
{
	struct state *state = context;

	(void)bytes, (void)length, (void)expires;
	state->tickets++;
}

/* Wait until the time of handshaked_timeout() has passed and there is a packet, without reading anything. */
static void pass_deadline(const struct handshaked *handshake)
{
	struct pollfd ready = { handshaked_fd(handshake), POLLIN, 0 };

	while (handshaked_timeout(handshake) > 0)
		poll(NULL, 0, handshaked_timeout(handshake));
	poll(&ready, 1, 20000);
}

static void late(void)
{
	const struct handshaked_options options = { .size = sizeof(options), .timeout_ms = 1 };
	struct state state;

	start(&state, HANDSHAKED_SERVER, &options, NULL);
	pass_deadline(state.handshake);
	printf("%d\n", handshaked_continue(state.handshake, NULL));
	handshaked_free(state.handshake);
}

/* Accept session tickets; with `is_late`, only after their time has passed. */
static void tickets(int is_late)
{
	const struct handshaked_options options = { .size = sizeof(options), .ticket_seconds = is_late ? 1 : 20 };
	const struct handshaked_callbacks callbacks = { .size = sizeof(callbacks), .session_ticket = count_ticket };
	struct state state = { 0 };

	start(&state, HANDSHAKED_CLIENT, &options, &callbacks);
	if (finish(state.handshake, NULL))
		die("the handshake failed");
	if (is_late)
		pass_deadline(state.handshake);
	printf("%d", finish(state.handshake, NULL));
	printf(" %d %d\n", handshaked_timeout(state.handshake), state.tickets);
	handshaked_free(state.handshake);
}

static void print_close(void *context, int quic_error, const char *reason)
{
	struct state *state = context;

	printf("close: %d %s %d tickets %d\n", quic_error, reason, state->tickets,
	       handshaked_continue(state->handshake, NULL));
	if (state->freed)
		handshaked_free(state->handshake);
}

/* Have the daemon report what violates the protocol after the handshake; with `frees`, free it in the callback. */
static void close_after(int frees)
{
	const struct handshaked_options options = { .size = sizeof(options), .ticket_seconds = 20 };
	const struct handshaked_callbacks callbacks = { .size = sizeof(callbacks), .session_ticket = count_ticket,
							.close = print_close };
	struct handshaked_result result = { .size = sizeof(result) };
	struct state state = { .freed = frees };
	int status;

	start(&state, HANDSHAKED_CLIENT, &options, &callbacks);
	status = finish(state.handshake, &result);
	printf("done: %d quic_error %d\n", status, result.quic_error);
	if (!status) {
		status = finish(state.handshake, NULL);
		printf("end: %d\n", status);
	}
	if (!frees)
		handshaked_free(state.handshake);
}

/* Send more CRYPTO data than a slow daemon reads in a second. */
static void slow(void)
{
	static uint8_t data[40 * 32768];
	struct state state;

	start(&state, HANDSHAKED_SERVER, NULL, NULL);
	printf("%d\n", handshaked_relay_crypto(state.handshake, 1, data, sizeof(data)));
	handshaked_free(state.handshake);
}

static void set_size(void *structure, size_t size)
{
	memcpy(structure, &size, sizeof(size));
}

/* Each structure with sizes of no version, and of a later version. */
static void sizes(void)
{
	union {
		struct handshaked_options options;
		struct handshaked_callbacks callbacks;
		struct handshaked_result result;
		uint8_t bytes[sizeof(struct handshaked_result) + 8];
	} one;
	const size_t first[] = { sizeof(one.options), offsetof(struct handshaked_callbacks, close),
				 offsetof(struct handshaked_result, quic_error) }; /* of version 0.1 */
	const size_t whole[] = { sizeof(one.options), sizeof(one.callbacks), sizeof(one.result) };
	struct handshaked_result result = { .size = sizeof(result) };
	struct handshaked *handshake;
	int status;

	for (size_t kind = 0; kind < 3; kind++) {
		const size_t tried[] = { 0, sizeof(size_t), first[kind] - 1, first[kind], whole[kind], whole[kind] + 8,
					 whole[kind] + 8, SIZE_MAX };

		for (size_t i = 0; i < 8; i++) {
			memset(&one, 0, sizeof(one));
			if (i == 6)
				one.bytes[whole[kind]] = 1; /* a later version's member that is set */
			set_size(&one, tried[i]);
			status = handshaked_relay_start(HANDSHAKED_SERVER, kind == 0 ? &one.options : NULL, NULL, 0,
							kind == 1 ? &one.callbacks : NULL, NULL,
							kind == 2 ? &one.result : &result, &handshake);
			printf("%d%s", status, i < 7 ? " " : "\n");
			if (!status && kind == 2)
				printf("(%d) ", handshaked_continue(handshake, &one.result));
			handshaked_free(handshake);
			if (kind == 2)
				handshaked_result_clear(&one.result);
		}
	}
}

/* Return how often the bytes whose complement is `wanted` are in the writable memory of this process. */
static int occurrences(const uint8_t *wanted, size_t length)
{
	static uint8_t part[1 << 20];
	FILE *maps = fopen("/proc/self/maps", "r"), *memory = fopen("/proc/self/mem", "rb");
	unsigned long first, last;
	char line[512], flags[8];
	int found = 0;

	if (!maps || !memory)
		die("cannot read the memory");
	setvbuf(memory, NULL, _IONBF, 0);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx %7s", &first, &last, flags) != 3 || flags[0] != 'r' || flags[1] != 'w' ||
		    last - first > 64ul << 20) /* the shadow memory of a sanitizer */
			continue;
		for (; first < last; first += sizeof(part) - 64) { /* parts overlap, so that nothing is split */
			size_t size = last - first < sizeof(part) ? last - first : sizeof(part), i, j;

			if (fseek(memory, (long)first, SEEK_SET) || fread(part, 1, size, memory) != size)
				break;
			for (i = 0; i + length <= size; i++) {
				for (j = 0; j < length && (part[i + j] ^ wanted[j]) == 0xff; j++)
					;
				found += j == length;
			}
			memset(part, 0, sizeof(part));
		}
	}
	fclose(maps);
	fclose(memory);
	return found;
}

static int sightings;
static uint8_t complement[32];

static void look_for_secret(void *context, unsigned int level, unsigned int direction, uint32_t suite,
			    const uint8_t *secret, size_t length)
{
	(void)context, (void)level, (void)direction, (void)suite;
	for (size_t i = 0; i < length && i < sizeof(complement); i++)
		complement[i] = (uint8_t)~secret[i];
	sightings = occurrences(complement, sizeof(complement));
}

static void look_again(void *context, unsigned int level, const uint8_t *data, size_t length)
{
	(void)context, (void)level, (void)data, (void)length;
	printf("%d then %d\n", sightings > 0, occurrences(complement, sizeof(complement)));
}

/* Is a secret in memory during its callback, in the callback of the next message in the packet, and after the end? */
static void secrets(void)
{
	const struct handshaked_callbacks callbacks = {
		.size = sizeof(callbacks), .secret = look_for_secret, .crypto = look_again
	};
	struct state state;

	start(&state, HANDSHAKED_SERVER, NULL, &callbacks);
	printf("%d ", finish(state.handshake, NULL));
	printf("at the end %d\n", occurrences(complement, sizeof(complement)));
	handshaked_free(state.handshake);
}

int main(int argc, char **argv)
{
	const char *mode = argc == 2 ? argv[1] : "";

	if (!strcmp(mode, "lengths"))
		lengths();
	else if (!strcmp(mode, "reenter"))
		reenter();
	else if (!strcmp(mode, "free") || !strcmp(mode, "free-done"))
		free_in_callback(!strcmp(mode, "free-done"));
	else if (!strcmp(mode, "late"))
		late();
	else if (!strcmp(mode, "tickets") || !strcmp(mode, "late-tickets"))
		tickets(!strcmp(mode, "late-tickets"));
	else if (!strcmp(mode, "close") || !strcmp(mode, "close-free"))
		close_after(!strcmp(mode, "close-free"));
	else if (!strcmp(mode, "slow"))
		slow();
	else if (!strcmp(mode, "sizes"))
		sizes();
	else if (!strcmp(mode, "secrets"))
		secrets();
	else
		return 2;
	return 0;
}
