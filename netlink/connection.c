/* SPDX-License-Identifier: BSD-3-Clause */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "connection.h"

int64_t hs_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int set_path(struct sockaddr_un *address, const char *directory, const char *rest)
{
	int length = snprintf(address->sun_path, sizeof(address->sun_path), "%s%s", directory, rest);

	return length < 0 || (size_t)length >= sizeof(address->sun_path) ? -ENAMETOOLONG : 0;
}

/* Return the value of a variable; NULL if it is unset or empty, or if the program is privileged. */
static const char *variable(const char *name)
{
	const char *value = secure_getenv(name);

	return value && *value ? value : NULL;
}

/* Fill in the address of this user's own daemon. Return whether there is one. */
static bool find_own(struct sockaddr_un *address)
{
	static const char *const bases[][2] = {
		{ "XDG_RUNTIME_DIR", "/handshaked/handshake.sock" },
		{ "XDG_STATE_HOME", "/handshaked/handshake.sock" },
		{ "HOME", "/.local/state/handshaked/handshake.sock" },
	};
	struct stat status;
	const char *base;

	for (size_t i = 0; geteuid() && i < sizeof(bases) / sizeof(*bases); i++) {
		base = variable(bases[i][0]);
		if (base && *base == '/') /* relative ones are invalid (XDG Base Directory Specification) */
			return !set_path(address, base, bases[i][1]) && !stat(address->sun_path, &status);
	}
	return false;
}

int hs_find(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (path && *path)
		return set_path(address, path, "");
	if ((path = variable("HANDSHAKED_SOCKET")))
		return set_path(address, path, "");
	if ((path = variable("HANDSHAKED_DIRECTORY")))
		return set_path(address, path, "/handshake.sock");
	return find_own(address) ? 0 : set_path(address, "/run/handshaked/handshake.sock", "");
}

/* Connect; wait until the deadline while the daemon's accept queue is full. */
static int connect_by(int sock, const struct sockaddr_un *address, int64_t deadline)
{
	/* The exact length: an empty path would otherwise name an abstract socket, which anybody can bind. */
	const socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(address->sun_path) + 1);
	struct timeval timeout;
	int64_t left;

	if (!*address->sun_path)
		return -EINVAL;
	do {
		left = deadline - hs_now();
		if (left <= 0)
			return -ETIMEDOUT;
		timeout = (struct timeval){ .tv_sec = left / 1000, .tv_usec = left % 1000 * 1000 };
		if (setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)))
			return -errno;
		if (!connect(sock, (const struct sockaddr *)address, length))
			return fcntl(sock, F_SETFL, O_NONBLOCK) ? -errno : 0;
	} while (errno == EINTR);
	return errno == EAGAIN ? -ETIMEDOUT : -errno;
}

/* Store the directory of `path` in `directory`, which has room for it. */
static void cut_name(const char *path, char *directory)
{
	char *slash;

	strcpy(directory, path);
	slash = strrchr(directory, '/');
	if (!slash)
		strcpy(directory, ".");
	else
		slash[slash == directory] = '\0'; /* keep the slash of the root directory */
}

/*
 * Check who listens at `path`: root (systemd included), this user, or the user to whom the socket's directory belongs
 * if nobody else can write to it, as the daemon's user owns /run/handshaked. Others must not get descriptors or data.
 */
static int check_peer(int sock, const char *path)
{
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	struct ucred peer;
	socklen_t size = sizeof(peer);
	struct stat status;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &size))
		return -errno;
	if (peer.uid == 0 || peer.uid == geteuid())
		return 0;
	cut_name(path, directory);
	if (stat(directory, &status))
		return -errno;
	return status.st_uid == peer.uid && !(status.st_mode & (S_IWGRP | S_IWOTH)) ? 0 : -EPERM;
}

int hs_connect(const struct sockaddr_un *address, int64_t deadline)
{
	int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), failure;

	if (sock < 0)
		return -errno;
	failure = connect_by(sock, address, deadline);
	if (!failure)
		failure = check_peer(sock, address->sun_path);
	if (failure) {
		close(sock);
		return failure;
	}
	return sock;
}

int hs_send(int sock, const struct hs_message *message, const int *descriptors, size_t count, int64_t deadline)
{
	union {
		char room[CMSG_SPACE((1 + HS_MAX_FILES) * sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { message->data, message->length };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1 };
	struct pollfd ready = { .fd = sock, .events = POLLOUT };
	struct cmsghdr *rights;
	int64_t left;

	if (message->failure)
		return message->failure;
	if (count > 1 + HS_MAX_FILES)
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
