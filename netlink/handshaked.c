/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handshake.h"

enum { MAX_PACKETS = 16 }; /* handled in one call */

EXPORTED int handshaked_quic_start(int sockfd, int role, const struct handshaked_options *options,
				   struct handshaked_result *result, struct handshaked **handshake)
{
	return hs_open(&(struct hs_start){ .role = role, .sockfd = sockfd, .options = options }, result, handshake);
}

EXPORTED int handshaked_fd(const struct handshaked *handshake)
{
	return handshake->sock;
}

EXPORTED int handshaked_timeout(const struct handshaked *handshake)
{
	int64_t left = handshake->deadline - hs_now();

	if (handshake->state == HS_OVER)
		return -1;
	if (left <= 0)
		return 0;
	return left < INT_MAX ? (int)left : INT_MAX;
}

EXPORTED void handshaked_free(struct handshaked *handshake)
{
	if (!handshake)
		return;
	if (handshake->busy) {
		handshake->freed = true;
		return;
	}
	close(handshake->sock);
	explicit_bzero(handshake, sizeof(*handshake));
	free(handshake);
}

/* Handle the messages of a packet, and clear each at once: it may be a secret. */
static void handle_messages(struct handshaked *handshake, size_t length, struct handshaked_result *result)
{
	struct hs_reader packet = { handshake->packet, length };
	struct hs_frame frame;

	while (handshake->state != HS_OVER && !handshake->freed && hs_next_frame(&packet, &frame)) {
		hs_handle(handshake, &frame, result);
		explicit_bzero(handshake->packet + (frame.attributes.data - handshake->packet), frame.attributes.left);
	}
	if (packet.left && handshake->state != HS_OVER && !handshake->freed)
		hs_end_malformed(handshake, result);
}

/* Receive and handle a packet. Return false if there is none. */
static bool handle_packet(struct handshaked *handshake, struct handshaked_result *result)
{
	const size_t room = sizeof(handshake->packet);
	ssize_t length;

	do
		length = recv(handshake->sock, handshake->packet, room, MSG_TRUNC);
	while (length < 0 && errno == EINTR);
	if (length < 0 && errno == EAGAIN)
		return false;
	if (length > 0 && (size_t)length <= room)
		handle_messages(handshake, (size_t)length, result);
	else if (length > 0 || handshake->state != HS_RUNNING)
		hs_end_malformed(handshake, result);
	else
		hs_fail(handshake, ECONNRESET, "the handshake daemon closed the connection", result);
	if (length > 0)
		explicit_bzero(handshake->packet, (size_t)length < room ? (size_t)length : room);
	return length > 0;
}

/*
 * Handle packets until there are no more, or the state changes, but a bounded number: a daemon that keeps sending must
 * not keep the caller from its other handshakes. The deadline is checked after each.
 */
static void handle_packets(struct handshaked *handshake, struct handshaked_result *result)
{
	const enum hs_state state = handshake->state;
	bool more = true;

	for (int left = MAX_PACKETS; left && more && handshake->state == state && !handshake->freed; left--) {
		more = handle_packet(handshake, result);
		if (handshake->state != state || handshake->freed || hs_now() < handshake->deadline)
			continue;
		if (state == HS_RUNNING)
			hs_fail(handshake, ETIMEDOUT, "the handshake daemon does not answer", result);
		else
			handshake->state = HS_OVER;
	}
	if (handshake->freed && handshake->state == HS_RUNNING) {
		handshake->state = HS_OVER;
		result->status = handshake->status = ECANCELED;
	}
}

EXPORTED int handshaked_continue(struct handshaked *handshake, struct handshaked_result *result)
{
	const bool was_running = handshake->state == HS_RUNNING;
	struct handshaked_result own = hs_no_result();
	int status;

	if (handshake->busy)
		return -EBUSY;
	if (hs_check_result(result))
		return -EINVAL;
	if (handshake->state == HS_OVER)
		return -EALREADY;
	handshake->busy = true;
	handle_packets(handshake, &own);
	handshake->busy = false;
	if (was_running && handshake->state != HS_RUNNING) {
		status = -handshake->status;
		own.status = handshake->status;
		hs_give_result(&own, result);
	} else {
		status = handshake->state == HS_OVER ? -EALREADY : -EAGAIN;
	}
	if (handshake->freed)
		handshaked_free(handshake);
	return status;
}

static int run(const struct hs_start *start, struct handshaked_result *result)
{
	struct pollfd ready = { .events = POLLIN };
	struct handshaked *handshake;
	int status = hs_open(start, result, &handshake);

	if (status)
		return status;
	ready.fd = handshaked_fd(handshake);
	while ((status = handshaked_continue(handshake, result)) == -EAGAIN)
		poll(&ready, 1, handshaked_timeout(handshake));
	handshaked_free(handshake);
	return status;
}

EXPORTED int handshaked_quic_client(int sockfd, const struct handshaked_options *options,
				    struct handshaked_result *result)
{
	return run(&(struct hs_start){ .role = HANDSHAKED_CLIENT, .sockfd = sockfd, .options = options }, result);
}

EXPORTED int handshaked_quic_server(int sockfd, const struct handshaked_options *options,
				    struct handshaked_result *result)
{
	return run(&(struct hs_start){ .role = HANDSHAKED_SERVER, .sockfd = sockfd, .options = options }, result);
}

EXPORTED int quic_client_handshake(int sockfd, const char *pkey_file, const char *hostname, const char *alpns)
{
	struct handshaked_options options = {
		.size = sizeof(options), .psk_file = pkey_file, .server_name = hostname, .alpns = alpns
	};

	return handshaked_quic_client(sockfd, &options, NULL);
}

EXPORTED int quic_server_handshake(int sockfd, const char *pkey_file, const char *cert_file, const char *alpns)
{
	struct handshaked_options options = { .size = sizeof(options), .certificate_file = cert_file, .alpns = alpns };

	if (cert_file)
		options.key_file = pkey_file;
	else
		options.psk_file = pkey_file;
	return handshaked_quic_server(sockfd, &options, NULL);
}
