/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <string.h>

#include "handshaked_family.h"
#include "wire.h"

#define ATTRIBUTE_HEADER 4
#define MESSAGE_HEADER 16
#define TYPE_MASK 0x3fff
#define NLM_F_REQUEST 1

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
	*message = (struct hs_message){ .data = buffer, .length = HS_HEADER, .room = room };
	if (room < HS_HEADER)
		message->failure = -EMSGSIZE;
	else
		put_header(message, command);
}

void hs_put(struct hs_message *message, unsigned int type, const void *data, size_t length)
{
	uint16_t short_length, short_type = (uint16_t)type;
	uint32_t total;
	size_t whole;
	uint8_t *at;

	if (!message->failure && length && !data)
		message->failure = -EINVAL;
	/* The length is the caller's: check it before adding anything to it. */
	if (!message->failure && length > UINT16_MAX - ATTRIBUTE_HEADER)
		message->failure = -EMSGSIZE;
	if (message->failure)
		return;
	whole = ATTRIBUTE_HEADER + length;
	if (aligned(whole) > message->room - message->length) {
		message->failure = -EMSGSIZE;
		return;
	}
	short_length = (uint16_t)whole;
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
	frame->version = family == HS_NETLINK_ERROR ? 0 : packet->data[MESSAGE_HEADER + 1];
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

static bool is_text(const struct hs_attribute *attribute)
{
	for (size_t i = 0; i < attribute->length; i++)
		if (attribute->data[i] < ' ' || attribute->data[i] == 0x7f)
			return false;
	return true;
}

static bool obeys(struct hs_attribute *attribute, const struct hs_policy *policy)
{
	switch (policy->kind) {
	case HS_U32:
		return attribute->length == sizeof(uint32_t) && hs_u32(attribute) <= policy->limit;
	case HS_FLAG:
		return !attribute->length;
	case HS_TEXT:
		if (attribute->length && !attribute->data[attribute->length - 1])
			attribute->length--;
		return attribute->length <= policy->limit && is_text(attribute);
	default:
		return attribute->length <= policy->limit;
	}
}

bool hs_pull(struct hs_reader attributes, const struct hs_policy *policies, size_t count, struct hs_attribute *found)
{
	struct hs_attribute attribute;

	memset(found, 0, count * sizeof(*found));
	while (hs_next_attribute(&attributes, &attribute)) {
		if (attribute.type >= count || policies[attribute.type].kind == HS_UNKNOWN)
			continue;
		if (!obeys(&attribute, &policies[attribute.type]))
			return false;
		if (!found[attribute.type].data)
			found[attribute.type] = attribute;
		else if (!policies[attribute.type].repeated)
			return false;
	}
	for (size_t i = 0; i < count; i++)
		if (policies[i].required && !found[i].data)
			return false;
	return !attributes.left;
}

uint32_t hs_u32(const struct hs_attribute *attribute)
{
	uint32_t value = 0;

	if (attribute->data && attribute->length == sizeof(value))
		memcpy(&value, attribute->data, sizeof(value));
	return value;
}
