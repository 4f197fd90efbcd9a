/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "handshaked_family.h"
#include "wire.h"

#define ATTRIBUTE_HEADER 4
#define MESSAGE_HEADER 16
#define TYPE_MASK 0x3fff
#define NLM_F_REQUEST 1
#define TIMEOUT_MS 1000

static size_t aligned(size_t length)
{
	return (length + 3) & ~(size_t)3;
}

static void put_header(struct hs_message *message, unsigned int command)
{
	uint32_t length = (uint32_t)message->length, sequence = 1, port = 0;
	uint16_t family = HANDSHAKED_UNIX_FAMILY, flags = NLM_F_REQUEST, reserved = 0;
	uint8_t version = HANDSHAKED_FAMILY_VERSION, number = (uint8_t)command;
	uint8_t *at = message->data;

	memcpy(at, &length, 4);
	memcpy(at + 4, &family, 2);
	memcpy(at + 6, &flags, 2);
	memcpy(at + 8, &sequence, 4);
	memcpy(at + 12, &port, 4);
	at[16] = number;
	at[17] = version;
	memcpy(at + 18, &reserved, 2);
}

void hs_begin(struct hs_message *message, uint8_t *buffer, size_t room, unsigned int command)
{
	*message = (struct hs_message){ .data = buffer, .length = HS_HEADER, .room = room, .failed = room < HS_HEADER };
	if (!message->failed)
		put_header(message, command);
}

void hs_put(struct hs_message *message, unsigned int type, const void *data, size_t length)
{
	size_t whole = ATTRIBUTE_HEADER + length;
	uint16_t short_length = (uint16_t)whole, short_type = (uint16_t)type;
	uint32_t total;
	uint8_t *at;

	if (message->failed || whole > UINT16_MAX || aligned(whole) > message->room - message->length) {
		message->failed = true;
		return;
	}
	at = message->data + message->length;
	memset(at, 0, aligned(whole));
	memcpy(at, &short_length, 2);
	memcpy(at + 2, &short_type, 2);
	if (length)
		memcpy(at + ATTRIBUTE_HEADER, data, length);
	message->length += aligned(whole);
	total = (uint32_t)message->length;
	memcpy(message->data, &total, 4);
}

void hs_put_u32(struct hs_message *message, unsigned int type, uint32_t value)
{
	hs_put(message, type, &value, sizeof(value));
}

void hs_put_string(struct hs_message *message, unsigned int type, const char *text)
{
	if (text)
		hs_put(message, type, text, strlen(text) + 1);
}

bool hs_next_frame(struct hs_reader *packet, struct hs_frame *frame)
{
	uint32_t length;
	uint16_t family;
	size_t header, step;

	if (packet->left < MESSAGE_HEADER)
		return false;
	memcpy(&length, packet->data, 4);
	memcpy(&family, packet->data + 4, 2);
	header = family == HS_NETLINK_ERROR ? MESSAGE_HEADER : HS_HEADER;
	if (length < header || length > packet->left)
		return false;
	frame->family = family;
	frame->command = family == HS_NETLINK_ERROR ? 0 : packet->data[MESSAGE_HEADER];
	frame->attributes = (struct hs_reader){ packet->data + header, length - header };
	step = aligned(length) < packet->left ? aligned(length) : packet->left;
	packet->data += step;
	packet->left -= step;
	return true;
}

bool hs_next_attribute(struct hs_reader *attributes, struct hs_attribute *attribute)
{
	uint16_t length, type;
	size_t step;

	if (attributes->left < ATTRIBUTE_HEADER)
		return false;
	memcpy(&length, attributes->data, 2);
	memcpy(&type, attributes->data + 2, 2);
	if (length < ATTRIBUTE_HEADER || length > attributes->left)
		return false;
	attribute->type = type & TYPE_MASK;
	attribute->data = attributes->data + ATTRIBUTE_HEADER;
	attribute->length = length - (size_t)ATTRIBUTE_HEADER;
	step = aligned(length) < attributes->left ? aligned(length) : attributes->left;
	attributes->data += step;
	attributes->left -= step;
	return true;
}

uint32_t hs_u32(const struct hs_attribute *attribute)
{
	uint32_t value = 0;

	if (attribute->length == sizeof(value))
		memcpy(&value, attribute->data, sizeof(value));
	return value;
}

int64_t hs_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

int hs_find(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (!path)
		path = secure_getenv("HANDSHAKED_SOCKET");
	if (!path)
		path = "/run/handshaked/handshake.sock";
	if (strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	strcpy(address->sun_path, path);
	return 0;
}

/* Connect; wait a limited time while the daemon's accept queue is full. */
static int connect_with_timeout(int sock, const struct sockaddr_un *address)
{
	const struct timeval timeout = { .tv_sec = TIMEOUT_MS / 1000 };
	int64_t deadline = hs_now() + TIMEOUT_MS;

	if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)))
		return -errno;
	while (connect(sock, (const struct sockaddr *)address, sizeof(*address))) {
		if (errno == EAGAIN || (errno == EINTR && hs_now() >= deadline))
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
	return fcntl(sock, F_SETFL, O_NONBLOCK) ? -errno : 0;
}

int hs_connect(const struct sockaddr_un *address)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), failure;

	if (sock < 0)
		return -errno;
	failure = connect_with_timeout(sock, address);
	if (failure) {
		close(sock);
		return failure;
	}
	return sock;
}

int hs_send(int sock, const struct hs_message *message, const int *descriptors, size_t count)
{
	union {
		char room[CMSG_SPACE((1 + HS_MAX_FILES) * sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { message->data, message->length };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	struct pollfd ready = { .fd = sock, .events = POLLOUT };
	int64_t deadline = hs_now() + TIMEOUT_MS, left;
	struct cmsghdr *rights;

	if (message->failed || count > 1 + HS_MAX_FILES)
		return -EMSGSIZE;
	if (count) {
		header.msg_control = control.room;
		header.msg_controllen = CMSG_SPACE(count * sizeof(int));
		rights = CMSG_FIRSTHDR(&header);
		rights->cmsg_level = SOL_SOCKET;
		rights->cmsg_type = SCM_RIGHTS;
		rights->cmsg_len = CMSG_LEN(count * sizeof(int));
		memcpy(CMSG_DATA(rights), descriptors, count * sizeof(int));
	}
	while (sendmsg(sock, &header, MSG_NOSIGNAL) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		left = deadline - hs_now();
		if (left <= 0)
			return -ETIMEDOUT;
		poll(&ready, 1, (int)left);
	}
	return 0;
}
