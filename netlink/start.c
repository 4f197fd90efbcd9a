/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "handshake.h"

#define DEFAULT_TIMEOUT_MS 8000
#define MAX_TIMEOUT_MS 60000 /* what the daemon reduces a longer one to */
#define MAX_TICKET_SECONDS 60
#define GRACE_MS 1000 /* to wait for the daemon after the handshake's own deadline */

/* Fill in status and reason of `result` and return `failure`. */
static int fail(struct handshaked_result *result, int failure, const char *what, const char *which)
{
	result->status = -failure;
	snprintf(result->reason, sizeof(result->reason), "%s%s", what, which);
	return failure;
}

static void put_alpns(struct hs_message *message, const char *alpns)
{
	size_t length;

	while (alpns && *alpns) {
		alpns += strspn(alpns, ", ");
		length = strcspn(alpns, ", ");
		if (length)
			hs_put(message, HANDSHAKED_A_START_ALPN, alpns, length);
		alpns += length;
	}
}

static void put_bytes(struct hs_message *message, unsigned int type, const struct handshaked_bytes *bytes)
{
	hs_put(message, type, bytes->data, bytes->length);
}

static void put_options(struct hs_message *message, const struct handshaked_options *options)
{
	if (options->timeout_ms)
		hs_put_u32(message, HANDSHAKED_A_START_TIMEOUT, options->timeout_ms);
	if (options->unauthenticated)
		hs_put_u32(message, HANDSHAKED_A_START_AUTH_MODE, HANDSHAKED_AUTH_UNAUTH);
	if (options->ticket_seconds)
		hs_put_u32(message, HANDSHAKED_A_START_TICKET_SECONDS, options->ticket_seconds);
	hs_put_string(message, HANDSHAKED_A_START_PEERNAME, options->server_name);
	hs_put_string(message, HANDSHAKED_A_START_REGISTRATION, options->registration);
	put_alpns(message, options->alpns);
	for (size_t i = 0; i < options->trust_anchor_count && !message->failure; i++)
		put_bytes(message, HANDSHAKED_A_START_TRUST_ANCHOR, &options->trust_anchors[i]);
	if (options->session_ticket.data)
		put_bytes(message, HANDSHAKED_A_START_SESSION_TICKET, &options->session_ticket);
	if (options->early_data)
		put_bytes(message, HANDSHAKED_A_START_EARLY_DATA, options->early_data);
}

/* Open a regular file, without waiting for the writer of a FIFO. Return a descriptor or a negative errno. */
static int open_file(const char *path, struct handshaked_result *result)
{
	int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), failure;
	struct stat status;

	if (descriptor < 0)
		return fail(result, -errno, "cannot open ", path);
	failure = fstat(descriptor, &status) ? -errno : S_ISREG(status.st_mode) ? 0 : -EINVAL;
	if (!failure)
		return descriptor;
	close(descriptor);
	return fail(result, failure, "not a regular file: ", path);
}

/* Open the caller's files and add their flags to the message. Return their number or a negative errno. */
static int open_files(const struct handshaked_options *options, struct hs_message *message, int *descriptors,
		       struct handshaked_result *result)
{
	const char *const paths[] = { options->certificate_file, options->key_file, options->psk_file };
	const unsigned int flags[] = { HANDSHAKED_A_START_CERTIFICATE_FILE, HANDSHAKED_A_START_KEY_FILE,
				       HANDSHAKED_A_START_PSK_FILE };
	int count = 0, failure;

	for (size_t i = 0; i < HS_MAX_FILES; i++) {
		if (!paths[i])
			continue;
		descriptors[count] = open_file(paths[i], result);
		if (descriptors[count] < 0) {
			failure = descriptors[count];
			while (count)
				close(descriptors[--count]);
			return failure;
		}
		count++;
		hs_put(message, flags[i], NULL, 0);
	}
	return count;
}

static int send_start(struct handshaked *opened, const struct hs_start *start, const struct handshaked_options *options,
		      int64_t deadline, struct handshaked_result *result)
{
	int descriptors[1 + HS_MAX_FILES] = { start->sockfd }, files = 0, failure;
	struct hs_message message; /* always cleared: a session ticket is as secret as a key */

	hs_begin(&message, opened->packet, sizeof(opened->packet), HANDSHAKED_CMD_START);
	hs_put_u32(&message, HANDSHAKED_A_START_MESSAGE_TYPE, (uint32_t)start->role);
	put_options(&message, options);
	if (start->transport_parameters.data)
		put_bytes(&message, HANDSHAKED_A_START_TRANSPORT_PARAMETERS, &start->transport_parameters);
	if (!start->is_relay) {
		hs_put(&message, HANDSHAKED_A_START_SOCKET, NULL, 0);
		files = open_files(options, &message, descriptors + 1, result);
		if (files < 0) {
			explicit_bzero(opened->packet, message.length);
			return files;
		}
	}
	failure = hs_send(opened->sock, &message, descriptors, start->is_relay ? 0 : 1 + (size_t)files, deadline);
	while (files)
		close(descriptors[files--]);
	explicit_bzero(opened->packet, message.length);
	return failure ? fail(result, failure, "cannot send to the handshake daemon", "") : 0;
}

/* Check the caller's arguments, and copy the options. */
static int check(const struct hs_start *start, struct handshaked_options *options, struct handshaked_result *result)
{
	int failure = hs_copy_options(options, start->options);

	if (failure)
		return fail(result, failure, failure == -E2BIG ? "options that this library does not have are set" :
			    "the member size of the options is invalid", "");
	if (start->role != HANDSHAKED_CLIENT && start->role != HANDSHAKED_SERVER)
		return fail(result, -EINVAL, "the role is neither client nor server", "");
	if (!start->is_relay && start->sockfd < 0)
		return fail(result, -EBADF, "invalid socket descriptor", "");
	if (start->is_relay && (options->certificate_file || options->key_file || options->psk_file))
		return fail(result, -EOPNOTSUPP, "files can only be used for handshakes on a socket", "");
	return 0;
}

static int64_t timeout_of(const struct handshaked_options *options)
{
	const unsigned int timeout = options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS;

	return (int64_t)(timeout < MAX_TIMEOUT_MS ? timeout : MAX_TIMEOUT_MS) + GRACE_MS;
}

/* Return how long a relayed client accepts session tickets, in milliseconds. On a socket the daemon itself does. */
static int64_t ticket_time_of(const struct hs_start *start, const struct handshaked_options *options)
{
	const unsigned int seconds = options->ticket_seconds;

	if (!start->is_relay || start->role != HANDSHAKED_CLIENT)
		return 0;
	return (int64_t)1000 * (seconds < MAX_TICKET_SECONDS ? seconds : MAX_TICKET_SECONDS);
}

static int connect_daemon(const struct handshaked_options *options, int64_t deadline, struct handshaked_result *result)
{
	struct sockaddr_un address;
	int sock = hs_find(options->socket_path, &address);

	if (sock)
		return fail(result, sock, "the path of the daemon's socket is too long", "");
	sock = hs_connect(&address, deadline);
	if (sock == -EPERM)
		return fail(result, sock, "neither root, this user nor the daemon's user listens at ", address.sun_path);
	if (sock < 0)
		return fail(result, sock, "cannot connect to the handshake daemon at ", address.sun_path);
	return sock;
}

/* Open a handshake, or return a negative errno with the status and reason in `result`. */
static int open_handshake(const struct hs_start *start, struct handshaked_result *result, struct handshaked **handshake)
{
	const int64_t deadline = hs_now() + HS_SEND_MS;
	struct handshaked_options options;
	struct handshaked *opened;
	int failure = check(start, &options, result);

	if (failure)
		return failure;
	opened = calloc(1, sizeof(*opened));
	if (!opened)
		return fail(result, -ENOMEM, "out of memory", "");
	if ((failure = hs_copy_callbacks(&opened->callbacks, start->callbacks))) {
		free(opened);
		return fail(result, failure, failure == -E2BIG ? "callbacks that this library does not have are set" :
			    "the member size of the callbacks is invalid", "");
	}
	opened->context = start->context;
	opened->role = start->role;
	opened->ticket_ms = ticket_time_of(start, &options);
	opened->sock = connect_daemon(&options, deadline, result);
	if (opened->sock < 0) {
		failure = opened->sock;
		free(opened);
		return failure;
	}
	opened->deadline = hs_now() + timeout_of(&options);
	if ((failure = send_start(opened, start, &options, deadline, result))) {
		handshaked_free(opened);
		return failure;
	}
	*handshake = opened;
	return 0;
}

int hs_open(const struct hs_start *start, struct handshaked_result *result, struct handshaked **handshake)
{
	struct handshaked_result own = hs_no_result();
	int failure = hs_check_result(result);

	*handshake = NULL;
	if (failure)
		return failure;
	failure = open_handshake(start, &own, handshake);
	if (failure)
		hs_give_result(&own, result);
	return failure;
}
