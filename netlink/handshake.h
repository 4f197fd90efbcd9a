/* SPDX-License-Identifier: BSD-3-Clause */
/* A handshake under way: how it begins, and what becomes of messages for it. Not installed. */
#ifndef HANDSHAKED_HANDSHAKE_H
#define HANDSHAKED_HANDSHAKE_H

#include "handshaked.h"
#include "handshaked_family.h"
#include "wire.h"

#define EXPORTED __attribute__((visibility("default")))

struct handshaked {
	int door;
	int64_t deadline; /* as hs_now() */
	bool over;
	const struct handshaked_callbacks *callbacks;
	void *context;
	uint8_t packet[HANDSHAKED_MAX_PACKET];
};

/* What a handshake begins with. */
struct hs_start {
	int role;
	int sockfd; /* a relay has none, and is_relay says so */
	bool is_relay;
	const struct handshaked_options *options;
	struct handshaked_bytes transport_parameters; /* of a relay */
};

/* Ask the daemon for a handshake; a negative errno if that fails, which `why` tells too. */
int hs_open(const struct hs_start *start, struct handshaked **handshake, struct handshaked_result *why);

/* A message of the daemon; `result` is filled by the last one, and needed until then. */
void hs_take(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result);

/* A message behind the last one, of which session tickets count. */
void hs_take_late(struct handshaked *handshake, const struct hs_frame *frame);

/* End the handshake with an errno. */
void hs_fail(struct handshaked *handshake, int status, struct handshaked_result *result);

#endif
