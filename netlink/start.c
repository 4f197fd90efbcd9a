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
#define GRACE_MS 1000 /* beyond its deadline after which the daemon itself is taken for lost */

static const struct handshaked_callbacks no_callbacks;

static int fail(struct handshaked_result *why, int failure, const char *what, const char *which)
{
	why->status = -failure;
	snprintf(why->reason, sizeof(why->reason), "%s%s", what, which);
	return failure;
}

/* A copy of the options; an older program knows fewer of them, and the rest is zero. */
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

/* Open the files that are brought and announce them; how many they are, or an error. */
static int bring_files(const struct handshaked_options *options, struct hs_message *message, int *descriptors,
		       struct handshaked_result *why)
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
			return fail(why, failure, "cannot open ", paths[i]);
		}
		count++;
		hs_put(message, flags[i], NULL, 0);
	}
	return count;
}

static int send_start(struct handshaked *made, const struct hs_start *start, const struct handshaked_options *options,
		      struct handshaked_result *why)
{
	int descriptors[1 + HS_MAX_FILES] = { start->sockfd }, files = 0, failure;
	struct hs_message message; /* cleared in any case: a session ticket is as secret as a key */

	hs_begin(&message, made->packet, sizeof(made->packet), HANDSHAKED_CMD_START);
	hs_put_u32(&message, HANDSHAKED_A_START_MESSAGE_TYPE, (uint32_t)start->role);
	put_options(&message, options);
	if (start->transport_parameters.data)
		put_bytes(&message, HANDSHAKED_A_START_TRANSPORT_PARAMETERS, &start->transport_parameters);
	if (!start->is_relay) {
		hs_put(&message, HANDSHAKED_A_START_SOCKET, NULL, 0);
		files = bring_files(options, &message, descriptors + 1, why);
		if (files < 0) {
			explicit_bzero(made->packet, message.length);
			return files;
		}
	}
	failure = hs_send(made->door, &message, descriptors, start->is_relay ? 0 : 1 + (size_t)files);
	while (files)
		close(descriptors[files--]);
	explicit_bzero(made->packet, message.length);
	return failure ? fail(why, failure, "the handshake daemon cannot be asked", "") : 0;
}

static int check(const struct hs_start *start, const struct handshaked_options *options, struct handshaked_result *why)
{
	if (!start->is_relay && start->sockfd < 0)
		return fail(why, -EBADF, "there is no socket", "");
	if (start->is_relay && (options->certificate_file || options->key_file || options->psk_file))
		return fail(why, -EOPNOTSUPP, "files are for handshakes on a socket", "");
	return 0;
}

int hs_open(const struct hs_start *start, struct handshaked **handshake, struct handshaked_result *why)
{
	struct handshaked_options options;
	struct sockaddr_un address;
	struct handshaked *made;
	int failure;

	*handshake = NULL;
	if (copy_options(&options, start->options))
		return fail(why, -EINVAL, "the options have a size that is not theirs", "");
	if ((failure = check(start, &options, why)))
		return failure;
	if ((failure = hs_find(options.socket_path, &address)))
		return fail(why, failure, "the path of the daemon's socket is too long", "");
	made = calloc(1, sizeof(*made));
	if (!made)
		return fail(why, -ENOMEM, "out of memory", "");
	made->callbacks = &no_callbacks;
	made->door = hs_connect(&address);
	if (made->door < 0) {
		failure = fail(why, made->door, "no handshake daemon answers at ", address.sun_path);
		free(made);
		return failure;
	}
	made->deadline = hs_now() + (options.timeout_ms ? options.timeout_ms : DEFAULT_TIMEOUT_MS) + GRACE_MS;
	if ((failure = send_start(made, start, &options, why))) {
		handshaked_free(made);
		return failure;
	}
	*handshake = made;
	return 0;
}
