/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal: messages in generic netlink format. Not installed. */
#ifndef HANDSHAKED_WIRE_H
#define HANDSHAKED_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HS_HEADER 20
#define HS_MAX_TRANSPORT_PARAMETERS 4096 /* local ones */
#define HS_NETLINK_ERROR 2 /* NLMSG_ERROR: an error or an acknowledgement */

/* A message being built. `failure` is a negative errno once something does not fit. */
struct hs_message {
	uint8_t *data;
	size_t length, room;
	int failure;
};

/* The unread rest of a packet or of a message's attributes. */
struct hs_reader {
	const uint8_t *data;
	size_t left;
};

struct hs_attribute {
	unsigned int type;
	const uint8_t *data; /* NULL if there is no such attribute */
	size_t length;
};

/* Text has no control characters; its terminating NUL is optional, and not part of the length. */
enum hs_kind { HS_UNKNOWN, HS_U32, HS_FLAG, HS_TEXT, HS_BYTES };

/* The rules for an attribute. */
struct hs_policy {
	enum hs_kind kind;
	uint32_t limit; /* largest value of a number, largest length of text or bytes */
	bool required, repeated;
};

struct hs_frame {
	unsigned int family, command, version; /* of an error: command and version are 0 */
	struct hs_reader attributes; /* of an error: its body */
};

void hs_begin(struct hs_message *message, uint8_t *buffer, size_t room, unsigned int command);
void hs_put(struct hs_message *message, unsigned int type, const void *data, size_t length);
void hs_put_u32(struct hs_message *message, unsigned int type, uint32_t value);
void hs_put_string(struct hs_message *message, unsigned int type, const char *text);

/* Read the next frame or attribute. Return false at the end, or if it is malformed (then bytes are left). */
bool hs_next_frame(struct hs_reader *packet, struct hs_frame *frame);
bool hs_next_attribute(struct hs_reader *attributes, struct hs_attribute *attribute);

/*
 * Check attributes against the policies of their types, and store each at its type in `found`, which like `policies`
 * has `count` members; of a repeated one the first. Attributes without a policy are skipped. Return false if one is
 * malformed, out of range, unexpectedly repeated, or missing.
 */
bool hs_pull(struct hs_reader attributes, const struct hs_policy *policies, size_t count, struct hs_attribute *found);

/* Return the value of a number that hs_pull() has checked, 0 if there is none. */
uint32_t hs_u32(const struct hs_attribute *attribute);

#endif
