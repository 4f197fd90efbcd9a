/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal: the connection to the daemon. Not installed.
 *
 * Functions return a negative errno on failure. Deadlines are in the time of hs_now(); -ETIMEDOUT if one passes before
 * the daemon accepts the connection or the message.
 */
#ifndef HANDSHAKED_CONNECTION_H
#define HANDSHAKED_CONNECTION_H

#include <stdint.h>
#include <sys/un.h>

#include "wire.h"

#define HS_MAX_FILES 3
#define HS_SEND_MS 1000 /* the longest that a function which does not wait for an answer may block */

/* Return the monotonic time in milliseconds. */
int64_t hs_now(void);

/* Fill in the daemon's address: `path`, else what the environment names, else this user's or the system's daemon. */
int hs_find(const char *path, struct sockaddr_un *address);

/* Return a connected, non-blocking socket. -EPERM if neither root, this user nor the daemon's user listens there. */
int hs_connect(const struct sockaddr_un *address, int64_t deadline);

int hs_send(int sock, const struct hs_message *message, const int *descriptors, size_t count, int64_t deadline);

#endif
