/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal: a handshake in progress, how it starts, and how it handles messages. Not installed. */
#ifndef HANDSHAKED_HANDSHAKE_H
#define HANDSHAKED_HANDSHAKE_H

#include "connection.h"
#include "handshaked.h"
#include "handshaked_family.h"
#include "wire.h"

#define EXPORTED __attribute__((visibility("default")))

enum hs_state {
	HS_RUNNING,
	HS_TICKETS, /* succeeded, and session tickets may arrive */
	HS_OVER,
};

struct handshaked {
	int sock; /* connected to the daemon */
	int role;
	int64_t deadline; /* of the state, in the time of hs_now() */
	int64_t ticket_ms; /* how long to accept session tickets */
	enum hs_state state;
	int status; /* once it is not running: 0 or a positive errno */
	unsigned int secrets; /* those received, a bit for each level and direction */
	bool busy; /* handshaked_continue() is running, perhaps in a callback */
	bool freed; /* by a callback: handshaked_continue() frees it when the callback returns */
	struct handshaked_callbacks callbacks;
	void *context;
	uint8_t packet[HANDSHAKED_MAX_PACKET]; /* holds secrets only while they are handled */
};

/* How a handshake is requested. */
struct hs_start {
	int role;
	int sockfd; /* unused for a relay */
	bool is_relay;
	const struct handshaked_options *options;
	struct handshaked_bytes transport_parameters; /* for a relay only */
	const struct handshaked_callbacks *callbacks; /* for a relay only */
	void *context;
};

/*
 * Structures of the caller, whose size member tells their version. Copy one, or check it; members that the caller does
 * not have are zero. -EINVAL if its size is invalid, -E2BIG if it sets a member that this library does not have.
 */
int hs_copy_options(struct handshaked_options *own, const struct handshaked_options *given);
int hs_copy_callbacks(struct handshaked_callbacks *own, const struct handshaked_callbacks *given);
int hs_check_result(const struct handshaked_result *given);

/* Return a result without content. */
struct handshaked_result hs_no_result(void);

/* Move `own` to the caller, who may not have given a result. */
void hs_give_result(struct handshaked_result *own, struct handshaked_result *given);

/*
 * Request a handshake. On failure return a negative errno; the caller's `result` then has it as the status, and the
 * reason, unless it is invalid itself.
 */
int hs_open(const struct hs_start *start, struct handshaked_result *result, struct handshaked **handshake);

/* Handle a message from the daemon. The last message of a running handshake fills in `result`. */
void hs_handle(struct handshaked *handshake, const struct hs_frame *frame, struct handshaked_result *result);

/* End the handshake with `status`, which is 0 or a positive errno, and call the callback done. */
void hs_end(struct handshaked *handshake, int status, struct handshaked_result *result);

/* The same with a reason, for a failure that the daemon did not report. */
void hs_fail(struct handshaked *handshake, int status, const char *reason, struct handshaked_result *result);

/* A malformed packet or message ends the handshake, or the wait for session tickets. */
void hs_end_malformed(struct handshaked *handshake, struct handshaked_result *result);

#endif
