/* SPDX-License-Identifier: BSD-3-Clause */
/* Structures that the caller and the library may know in different versions; the caller's size tells which. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "handshake.h"

/* Sizes of version 0.1: what ends before its last member was not compiled with any version of the header. */
#define END_OF(type, member) (offsetof(struct type, member) + sizeof(((struct type *)0)->member))
#define FIRST_OPTIONS END_OF(handshaked_options, early_data)
#define FIRST_CALLBACKS END_OF(handshaked_callbacks, done)
#define FIRST_RESULT END_OF(handshaked_result, peer_certificate_length)
#define MAX_SIZE 16384 /* larger ones are not a size */

static bool is_size(size_t size, size_t first)
{
	return size >= first && size <= MAX_SIZE;
}

static int copy(void *own, const void *given, size_t own_size, size_t first)
{
	const uint8_t *bytes = given;
	size_t size;

	memset(own, 0, own_size);
	if (!given)
		return 0;
	memcpy(&size, given, sizeof(size));
	if (!is_size(size, first))
		return -EINVAL;
	for (size_t i = own_size; i < size; i++)
		if (bytes[i])
			return -E2BIG;
	memcpy(own, given, size < own_size ? size : own_size);
	return 0;
}

int hs_copy_options(struct handshaked_options *own, const struct handshaked_options *given)
{
	return copy(own, given, sizeof(*own), FIRST_OPTIONS);
}

int hs_copy_callbacks(struct handshaked_callbacks *own, const struct handshaked_callbacks *given)
{
	return copy(own, given, sizeof(*own), FIRST_CALLBACKS);
}

int hs_check_result(const struct handshaked_result *given)
{
	return !given || is_size(given->size, FIRST_RESULT) ? 0 : -EINVAL;
}

struct handshaked_result hs_no_result(void)
{
	return (struct handshaked_result){ .size = sizeof(struct handshaked_result), .alert = -1 };
}

void hs_give_result(struct handshaked_result *own, struct handshaked_result *given)
{
	size_t size;

	if (!given) {
		handshaked_result_clear(own);
		return;
	}
	size = given->size;
	memset(given, 0, size);
	memcpy(given, own, size < sizeof(*own) ? size : sizeof(*own));
	given->size = size;
}

EXPORTED void handshaked_result_clear(struct handshaked_result *result)
{
	struct handshaked_result none = hs_no_result();

	if (!result || hs_check_result(result))
		return; /* nothing of it can be valid */
	free(result->peer_certificate);
	hs_give_result(&none, result);
}
