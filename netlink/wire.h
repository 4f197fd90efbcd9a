/* SPDX-License-Identifier: BSD-3-Clause */
/* Internal: messages in generic netlink format, and the connection to the daemon. Not installed. */
#ifndef HANDSHAKED_WIRE_H
#define HANDSHAKED_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#define HS_HEADER 20
#define HS_MAX_FILES 3
#define HS_MAX_SECRET 48
#define HS_MAX_TRANSPORT_PARAMETERS 4096 /* local ones */
#define HS_NETLINK_ERROR 2 /* NLMSG_ERROR: an error or an acknowledgement */

/* A message being built. `failed` is set once something does not fit. */
struct hs_message {
	uint8_t *data;
	size_t length, room;
	bool failed;
};

/* The unread rest of a packet or of a message's attributes. */
struct hs_reader {
	const uint8_t *data;
	size_t left;
};

struct hs_attribute {
	unsigned int type;
	const uint8_t *data;
	size_t length;
};

struct hs_frame {
	unsigned int family, command;
	struct hs_reader attributes; /* of an error: its body */
};

void hs_begin(struct hs_message *message, uint8_t *buffer, size_t room, unsigned int command);
void hs_put(struct hs_message *message, unsigned int type, const void *data, size_t length);
void hs_put_u32(struct hs_message *message, unsigned int type, uint32_t value);
void hs_put_string(struct hs_message *message, unsigned int type, const char *text);

/* Read the next frame or attribute. Return false at the end, or if it is malformed (then bytes are left). */
bool hs_next_frame(struct hs_reader *packet, struct hs_frame *frame);
bool hs_next_attribute(struct hs_reader *attributes, struct hs_attribute *attribute);
uint32_t hs_u32(const struct hs_attribute *attribute);

/* Return the monotonic time in milliseconds. */
int64_t hs_now(void);

/*
 * The following return a negative errno on failure, -ETIMEDOUT if the daemon accepts no connection or message for a
 * second.
 */

/* Fill in the daemon's address: `path`, else HANDSHAKED_SOCKET, else the system's daemon. */
int hs_find(const char *path, struct sockaddr_un *address);
int hs_connect(const struct sockaddr_un *address);
int hs_send(int sock, const struct hs_message *message, const int *descriptors, size_t count);

#endif
