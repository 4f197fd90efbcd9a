/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages in generic netlink's format, and the connection to the daemon that carries them. Not installed. */
#ifndef HANDSHAKED_WIRE_H
#define HANDSHAKED_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#define HS_HEADER 20
#define HS_MAX_FILES 3
#define HS_MAX_SECRET 48
#define HS_MAX_TRANSPORT_PARAMETERS 4096 /* the own ones */
#define HS_NETLINK_ERROR 2 /* the family of an error or an acknowledgement */

/* A message being built; once something did not fit it stays failed. */
struct hs_message {
	uint8_t *data;
	size_t length, room;
	bool failed;
};

/* What is left to read of attributes or messages. */
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
	struct hs_reader attributes; /* or the body, of an error */
};

void hs_begin(struct hs_message *message, uint8_t *buffer, size_t room, unsigned int command);
void hs_put(struct hs_message *message, unsigned int type, const void *data, size_t length);
void hs_put_u32(struct hs_message *message, unsigned int type, uint32_t value);
void hs_put_string(struct hs_message *message, unsigned int type, const char *text);

/* True if there was one, which is taken; what is malformed ends it. */
bool hs_next_frame(struct hs_reader *packet, struct hs_frame *frame);
bool hs_next_attribute(struct hs_reader *attributes, struct hs_attribute *attribute);
uint32_t hs_u32(const struct hs_attribute *attribute);

/* The monotonic clock, in milliseconds. */
int64_t hs_now(void);

/* The rest returns a negative errno if it fails, -ETIMEDOUT if the daemon takes nothing for a second. */

/* Where the daemon is: at `path`, or at HANDSHAKED_SOCKET, or where a system daemon is. */
int hs_find(const char *path, struct sockaddr_un *address);
int hs_connect(const struct sockaddr_un *address);
int hs_send(int door, const struct hs_message *message, const int *descriptors, size_t count);

#endif
