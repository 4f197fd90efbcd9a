/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "handshake.h"
#include "handshaked_family.h"
#include "wire.h"

#define DEFAULT_TIMEOUT_MS 8000
#define GRACE_MS 1000 /* beyond its deadline after which the daemon itself is taken for lost */
#define START_ROOM 8192

static const struct handshaked_options defaults;
static const struct handshaked_callbacks no_callbacks;

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* A copy of the options; an older program knows fewer of them, and the rest is zero. */
static int copy_options(struct handshaked_options *copy, const struct handshaked_options *options)
{
	*copy = defaults;
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

static void put_start(struct hs_message *message, int role, const struct handshaked_options *options)
{
	hs_put_u32(message, HANDSHAKED_A_START_MESSAGE_TYPE, (uint32_t)role);
	if (options->timeout_ms)
		hs_put_u32(message, HANDSHAKED_A_START_TIMEOUT, options->timeout_ms);
	if (options->unauthenticated)
		hs_put_u32(message, HANDSHAKED_A_START_AUTH_MODE, HANDSHAKED_AUTH_UNAUTH);
	if (options->ticket_seconds)
		hs_put_u32(message, HANDSHAKED_A_START_TICKET_SECONDS, options->ticket_seconds);
	hs_put_string(message, HANDSHAKED_A_START_PEERNAME, options->server_name);
	hs_put_string(message, HANDSHAKED_A_START_REGISTRATION, options->registration);
	put_alpns(message, options->alpns);
}

static int open_daemon(const struct handshaked_options *options, struct handshaked **handshake)
{
	struct handshaked *made = calloc(1, sizeof(*made));

	if (!made)
		return -ENOMEM;
	made->door = hs_connect(options->socket_path);
	if (made->door < 0) {
		int failure = made->door;

		free(made);
		return failure;
	}
	made->deadline = now() + (options->timeout_ms ? options->timeout_ms : DEFAULT_TIMEOUT_MS) + GRACE_MS;
	made->callbacks = &no_callbacks;
	*handshake = made;
	return 0;
}

/* Open the files that are brought, behind the socket in `descriptors`, and announce them; their number, or an error. */
static int bring_files(const struct handshaked_options *options, struct hs_message *message, int *descriptors)
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
			return failure;
		}
		count++;
		hs_put(message, flags[i], NULL, 0);
	}
	return count;
}

static int send_start(struct handshaked *handshake, int sockfd, int role, const struct handshaked_options *options)
{
	int descriptors[1 + HS_MAX_FILES] = { sockfd }, files, failure;
	uint8_t buffer[START_ROOM];
	struct hs_message message;

	hs_begin(&message, buffer, sizeof(buffer), HANDSHAKED_CMD_START);
	put_start(&message, role, options);
	hs_put(&message, HANDSHAKED_A_START_SOCKET, NULL, 0);
	files = bring_files(options, &message, descriptors + 1);
	if (files < 0)
		return files;
	failure = hs_send(handshake->door, &message, descriptors, 1 + (size_t)files);
	while (files)
		close(descriptors[files--]);
	return failure;
}

EXPORTED int handshaked_quic_start(int sockfd, int role, const struct handshaked_options *options,
				   struct handshaked **handshake)
{
	struct handshaked_options copy;
	struct handshaked *made;
	int failure = copy_options(&copy, options);

	if (failure)
		return failure;
	if (sockfd < 0)
		return -EBADF;
	failure = open_daemon(&copy, &made);
	if (failure)
		return failure;
	failure = send_start(made, sockfd, role, &copy);
	if (failure) {
		handshaked_free(made);
		return failure;
	}
	*handshake = made;
	return 0;
}

EXPORTED int handshaked_fd(const struct handshaked *handshake)
{
	return handshake->door;
}

EXPORTED void handshaked_free(struct handshaked *handshake)
{
	if (!handshake)
		return;
	close(handshake->door);
	explicit_bzero(handshake, sizeof(*handshake));
	free(handshake);
}

/* One packet; 0 if there was one, or if the handshake is over without. */
static int take_packet(struct handshaked *handshake, struct handshaked_result *result)
{
	ssize_t length = recv(handshake->door, handshake->packet, sizeof(handshake->packet), 0);
	struct hs_reader packet = { handshake->packet, length > 0 ? (size_t)length : 0 };
	struct hs_frame frame;

	if (length < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (now() < handshake->deadline)
			return -EAGAIN;
		hs_fail(handshake, ETIMEDOUT, result);
		return 0;
	}
	if (length <= 0)
		hs_fail(handshake, ECONNRESET, result);
	while (!handshake->over && hs_next_frame(&packet, &frame))
		hs_take(handshake, &frame, result);
	return 0;
}

/* Behind the handshake only session tickets come. */
static int take_tickets(struct handshaked *handshake)
{
	struct hs_reader packet;
	struct hs_frame frame;
	ssize_t length;

	while ((length = recv(handshake->door, handshake->packet, sizeof(handshake->packet), 0)) > 0) {
		packet = (struct hs_reader){ handshake->packet, (size_t)length };
		while (hs_next_frame(&packet, &frame))
			if (frame.command == HANDSHAKED_CMD_SESSION_TICKET)
				hs_take(handshake, &frame, NULL);
	}
	return length == 0 ? -EALREADY : -errno;
}

EXPORTED int handshaked_continue(struct handshaked *handshake, struct handshaked_result *result)
{
	struct handshaked_result own = { .alert = -1 };
	int status;

	if (handshake->over)
		return take_tickets(handshake);
	while (!handshake->over)
		if (take_packet(handshake, &own))
			return -EAGAIN;
	status = own.status;
	if (result)
		*result = own;
	else
		handshaked_result_clear(&own);
	return -status;
}

static int run(int sockfd, int role, const struct handshaked_options *options, struct handshaked_result *result)
{
	struct handshaked *handshake;
	struct pollfd ready = { .events = POLLIN };
	int status = handshaked_quic_start(sockfd, role, options, &handshake);
	int64_t left;

	if (result)
		*result = (struct handshaked_result){ .alert = -1, .status = -status };
	if (status)
		return status;
	ready.fd = handshake->door;
	while ((status = handshaked_continue(handshake, result)) == -EAGAIN) {
		left = handshake->deadline - now();
		poll(&ready, 1, left > 0 ? (int)left : 0);
	}
	handshaked_free(handshake);
	return status;
}

EXPORTED int handshaked_quic_client(int sockfd, const struct handshaked_options *options,
				    struct handshaked_result *result)
{
	return run(sockfd, HANDSHAKED_CLIENT, options, result);
}

EXPORTED int handshaked_quic_server(int sockfd, const struct handshaked_options *options,
				    struct handshaked_result *result)
{
	return run(sockfd, HANDSHAKED_SERVER, options, result);
}

EXPORTED int quic_client_handshake(int sockfd, const char *pkey_file, const char *hostname, const char *alpns)
{
	struct handshaked_options options = {
		.size = sizeof(options), .psk_file = pkey_file, .server_name = hostname, .alpns = alpns
	};

	return run(sockfd, HANDSHAKED_CLIENT, &options, NULL);
}

EXPORTED int quic_server_handshake(int sockfd, const char *pkey_file, const char *cert_file, const char *alpns)
{
	struct handshaked_options options = { .size = sizeof(options), .certificate_file = cert_file, .alpns = alpns };

	if (cert_file)
		options.key_file = pkey_file;
	else
		options.psk_file = pkey_file;
	return run(sockfd, HANDSHAKED_SERVER, &options, NULL);
}

EXPORTED int handshaked_relay_start(int role, const struct handshaked_options *options,
				    const uint8_t *transport_parameters, size_t length,
				    const struct handshaked_callbacks *callbacks, void *context,
				    struct handshaked **handshake)
{
	uint8_t buffer[START_ROOM];
	struct handshaked_options copy;
	struct hs_message message;
	struct handshaked *made;
	int failure = copy_options(&copy, options);

	if (failure)
		return failure;
	if (copy.certificate_file || copy.key_file || copy.psk_file)
		return -EOPNOTSUPP;
	failure = open_daemon(&copy, &made);
	if (failure)
		return failure;
	hs_begin(&message, buffer, sizeof(buffer), HANDSHAKED_CMD_START);
	put_start(&message, role, &copy);
	if (transport_parameters)
		hs_put(&message, HANDSHAKED_A_START_TRANSPORT_PARAMETERS, transport_parameters, length);
	failure = hs_send(made->door, &message, NULL, 0);
	if (failure) {
		handshaked_free(made);
		return failure;
	}
	made->callbacks = callbacks;
	made->context = context;
	*handshake = made;
	return 0;
}

EXPORTED int handshaked_relay_crypto(struct handshaked *handshake, unsigned int level, const uint8_t *data,
				     size_t length)
{
	uint8_t *buffer;
	struct hs_message message;
	int failure;

	if (length > HANDSHAKED_MAX_CRYPTO)
		return -EMSGSIZE;
	buffer = malloc(HS_HEADER + 16 + length + 4);
	if (!buffer)
		return -ENOMEM;
	hs_begin(&message, buffer, HS_HEADER + 16 + length + 4, HANDSHAKED_CMD_CRYPTO);
	hs_put_u32(&message, HANDSHAKED_A_CRYPTO_LEVEL, level);
	hs_put(&message, HANDSHAKED_A_CRYPTO_DATA, data, length);
	failure = hs_send(handshake->door, &message, NULL, 0);
	free(buffer);
	return failure;
}

EXPORTED int handshaked_relay_transport_parameters(struct handshaked *handshake, const uint8_t *data, size_t length)
{
	uint8_t buffer[START_ROOM];
	struct hs_message message;

	hs_begin(&message, buffer, sizeof(buffer), HANDSHAKED_CMD_TRANSPORT_PARAMETERS);
	hs_put(&message, HANDSHAKED_A_TRANSPORT_PARAMETERS_PARAMETERS, data, length);
	return hs_send(handshake->door, &message, NULL, 0);
}
