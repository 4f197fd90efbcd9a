/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "handshake.h"

EXPORTED int handshaked_quic_start(int sockfd, int role, const struct handshaked_options *options,
				   struct handshaked **handshake)
{
	struct handshaked_result unused;

	return hs_open(&(struct hs_start){ .role = role, .sockfd = sockfd, .options = options }, handshake, &unused);
}

EXPORTED int handshaked_fd(const struct handshaked *handshake)
{
	return handshake->sock;
}

EXPORTED int handshaked_timeout(const struct handshaked *handshake)
{
	int64_t left = handshake->deadline - hs_now();

	if (handshake->over)
		return -1;
	if (left <= 0)
		return 0;
	return left < INT_MAX ? (int)left : INT_MAX;
}

EXPORTED void handshaked_free(struct handshaked *handshake)
{
	if (!handshake)
		return;
	close(handshake->sock);
	explicit_bzero(handshake, sizeof(*handshake));
	free(handshake);
}

/* Receive a packet. The length returned exceeds the buffer if the packet did not fit. */
static ssize_t receive(struct handshaked *handshake)
{
	ssize_t length;

	do
		length = recv(handshake->sock, handshake->packet, sizeof(handshake->packet), MSG_TRUNC);
	while (length < 0 && errno == EINTR);
	return length;
}

/* Receive and handle a packet. Return 0, or -EAGAIN if there is none and the deadline has not passed. */
static int handle_packet(struct handshaked *handshake, struct handshaked_result *result)
{
	ssize_t length = receive(handshake);
	struct hs_reader packet = { handshake->packet, length > 0 ? (size_t)length : 0 };
	struct hs_frame frame;

	if (length < 0 && errno == EAGAIN) {
		if (hs_now() < handshake->deadline)
			return -EAGAIN;
		hs_end(handshake, ETIMEDOUT, result);
		return 0;
	}
	if (length <= 0) {
		hs_end(handshake, ECONNRESET, result);
		return 0;
	}
	if (packet.left > sizeof(handshake->packet))
		packet.left = 0;
	while (!handshake->over && hs_next_frame(&packet, &frame))
		hs_handle(handshake, &frame, result);
	if (!handshake->over && (packet.left || (size_t)length > sizeof(handshake->packet)))
		hs_end(handshake, EPROTO, result);
	return 0;
}

/* Handle the packets that arrive after the end of the handshake. Return -EAGAIN if more may come. */
static int handle_late_packets(struct handshaked *handshake)
{
	struct hs_reader packet;
	struct hs_frame frame;
	ssize_t length;

	while ((length = receive(handshake)) > 0 && (size_t)length <= sizeof(handshake->packet)) {
		packet = (struct hs_reader){ handshake->packet, (size_t)length };
		while (hs_next_frame(&packet, &frame))
			hs_handle_late(handshake, &frame);
	}
	return length < 0 ? -errno : -EALREADY;
}

EXPORTED int handshaked_continue(struct handshaked *handshake, struct handshaked_result *result)
{
	struct handshaked_result own = { .alert = -1 };
	int status;

	if (handshake->over)
		return handle_late_packets(handshake);
	while (!handshake->over)
		if (handle_packet(handshake, &own))
			return -EAGAIN;
	status = own.status;
	if (result)
		*result = own;
	else
		handshaked_result_clear(&own);
	return -status;
}

static int run(const struct hs_start *start, struct handshaked_result *result)
{
	struct handshaked_result failure = { .alert = -1 };
	struct pollfd ready = { .events = POLLIN };
	struct handshaked *handshake;
	int status = hs_open(start, &handshake, &failure);

	if (result)
		*result = failure;
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
