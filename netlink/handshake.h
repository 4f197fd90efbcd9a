/* SPDX-License-Identifier: BSD-3-Clause */
/* A handshake under way, and what becomes of messages for it. Not installed. */
#ifndef HANDSHAKED_HANDSHAKE_H
#define HANDSHAKED_HANDSHAKE_H

#include "handshaked.h"
#include "handshaked_family.h"
#include "wire.h"

#define EXPORTED __attribute__((visibility("default")))

struct handshaked {
	int door;
	int64_t deadline; /* of the monotonic clock, in milliseconds */
	bool over;
	const struct handshaked_callbacks *callbacks;
	void *context;
	uint8_t packet[HANDSHAKED_MAX_PACKET];
};

/* A message of the daemon; `result` is filled by the last one, and needed until then. */
void hs_take(struct handshaked *handshake, struct hs_frame *frame, struct handshaked_result *result);

/* End the handshake with an errno. */
void hs_fail(struct handshaked *handshake, int status, struct handshaked_result *result);

#endif
