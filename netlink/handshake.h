/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal: a handshake in progress, how it starts, and how it handles messages. Not installed. */
#ifndef HANDSHAKED_HANDSHAKE_H
#define HANDSHAKED_HANDSHAKE_H

#include "handshaked.h"
#include "handshaked_family.h"
#include "wire.h"

#define EXPORTED __attribute__((visibility("default")))

struct handshaked {
	int sock; /* connected to the daemon */
	int64_t deadline; /* in the time of hs_now() */
	bool over;
	const struct handshaked_callbacks *callbacks;
	void *context;
	uint8_t packet[HANDSHAKED_MAX_PACKET];
};

/* How a handshake is requested. */
struct hs_start {
	int role;
	int sockfd; /* unused for a relay */
	bool is_relay;
	const struct handshaked_options *options;
	struct handshaked_bytes transport_parameters; /* for a relay only */
};

/* Request a handshake. On failure return a negative errno and fill in status and reason of `result`. */
int hs_open(const struct hs_start *start, struct handshaked **handshake, struct handshaked_result *result);

/* Handle a message from the daemon. The last message of a handshake fills in `result`. */
void hs_handle(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result);

/* Handle a message that came after the end of the handshake: session tickets count, others are ignored. */
void hs_handle_late(struct handshaked *handshake, const struct hs_frame *frame);

/* End the handshake with `status`, which is 0 or a positive errno, and call the callback done. */
void hs_end(struct handshaked *handshake, int status, struct handshaked_result *result);

#endif
