/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "handshake.h"

#define DEFAULT_TIMEOUT_MS 8000
#define GRACE_MS 1000 /* to wait for the daemon after the handshake's own deadline */

static const struct handshaked_callbacks no_callbacks;

/* Fill in status and reason of `result` and return `failure`. */
static int fail(struct handshaked_result *result, int failure, const char *what, const char *which)
{
	result->status = -failure;
	snprintf(result->reason, sizeof(result->reason), "%s%s", what, which);
	return failure;
}

/* Copy the options. A program built with an older header has fewer of them; the others stay zero. */
static int copy_options(struct handshaked_options *copy, const struct handshaked_options *options)
{
	*copy = (struct handshaked_options){ 0 };
	if (!options)
		return 0;
	if (options->size < sizeof(options->size) || options->size > sizeof(*copy))
		return -EINVAL;
	memcpy(copy, options, options->size);
	return 0;
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
	for (size_t i = 0; i < options->trust_anchor_count; i++)
		put_bytes(message, HANDSHAKED_A_START_TRUST_ANCHOR, &options->trust_anchors[i]);
	if (options->session_ticket.data)
		put_bytes(message, HANDSHAKED_A_START_SESSION_TICKET, &options->session_ticket);
	if (options->early_data)
		put_bytes(message, HANDSHAKED_A_START_EARLY_DATA, options->early_data);
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
		descriptors[count] = open(paths[i], O_RDONLY | O_CLOEXEC);
		if (descriptors[count] < 0) {
			failure = -errno;
			while (count)
				close(descriptors[--count]);
			return fail(result, failure, "cannot open ", paths[i]);
		}
		count++;
		hs_put(message, flags[i], NULL, 0);
	}
	return count;
}

static int send_start(struct handshaked *opened, const struct hs_start *start, const struct handshaked_options *options,
		      struct handshaked_result *result)
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
	failure = hs_send(opened->sock, &message, descriptors, start->is_relay ? 0 : 1 + (size_t)files);
	while (files)
		close(descriptors[files--]);
	explicit_bzero(opened->packet, message.length);
	return failure ? fail(result, failure, "cannot send to the handshake daemon", "") : 0;
}

static int check(const struct hs_start *start, const struct handshaked_options *options,
		 struct handshaked_result *result)
{
	if (!start->is_relay && start->sockfd < 0)
		return fail(result, -EBADF, "invalid socket descriptor", "");
	if (start->is_relay && (options->certificate_file || options->key_file || options->psk_file))
		return fail(result, -EOPNOTSUPP, "files can only be used for handshakes on a socket", "");
	return 0;
}

int hs_open(const struct hs_start *start, struct handshaked **handshake, struct handshaked_result *result)
{
	struct handshaked_options options;
	struct sockaddr_un address;
	struct handshaked *opened;
	int failure;

	*handshake = NULL;
	if (copy_options(&options, start->options))
		return fail(result, -EINVAL, "the member size of the options is invalid", "");
	if ((failure = check(start, &options, result)))
		return failure;
	if ((failure = hs_find(options.socket_path, &address)))
		return fail(result, failure, "the path of the daemon's socket is too long", "");
	opened = calloc(1, sizeof(*opened));
	if (!opened)
		return fail(result, -ENOMEM, "out of memory", "");
	opened->callbacks = &no_callbacks;
	opened->sock = hs_connect(&address);
	if (opened->sock < 0) {
		failure = fail(result, opened->sock, "cannot connect to the handshake daemon at ", address.sun_path);
		free(opened);
		return failure;
	}
	opened->deadline = hs_now() + (options.timeout_ms ? options.timeout_ms : DEFAULT_TIMEOUT_MS) + GRACE_MS;
	if ((failure = send_start(opened, start, &options, result))) {
		handshaked_free(opened);
		return failure;
	}
	*handshake = opened;
	return 0;
}
