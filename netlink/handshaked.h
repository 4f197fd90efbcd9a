/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS 1.3 handshakes by handshaked, the daemon that keeps the certificates and the keys.
 *
 * Functions return 0, or a negative errno. quic_client_handshake(3) and handshaked_relay(3) tell the rest.
 */
#ifndef HANDSHAKED_H
#define HANDSHAKED_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Roles, levels and directions have the numbers of the kernel's QUIC sockets. */
#define HANDSHAKED_CLIENT 1
#define HANDSHAKED_SERVER 2

struct handshaked_bytes {
	const uint8_t *data;
	size_t length;
};

/* What may be said of a handshake; all that is zero is left to the daemon. Set size to sizeof(*this). */
struct handshaked_options {
	size_t size;
	const char *server_name; /* what a client sends and verifies */
	const char *alpns; /* with commas between; NULL: those of the socket */
	const char *registration; /* no other one; a client's names its certificate */
	const char *certificate_file; /* used instead of a registration, with key_file */
	const char *key_file;
	const char *psk_file; /* lines IDENTITY:KEY, the key in hexadecimal */
	const char *socket_path; /* of the daemon */
	unsigned int timeout_ms;
	unsigned int ticket_seconds; /* how long a client waits for session tickets */
	int unauthenticated; /* a client does not verify its server */
	struct handshaked_bytes session_ticket; /* what a client resumes with, instead of what the socket has */
	const struct handshaked_bytes *trust_anchors; /* certificates in DER, instead of the daemon's trust store */
	size_t trust_anchor_count;
	const struct handshaked_bytes *early_data; /* consent to 0-RTT; a server's limits, none on a client */
};

/* How a handshake ended. handshaked_result_clear() frees what hangs on it. */
struct handshaked_result {
	int status; /* 0, or an errno */
	int alert; /* to close the connection with, as 0x100 + alert; -1: none */
	uint32_t cipher_suite;
	int resumed;
	int early_data_accepted;
	char alpn[256];
	char server_name[256];
	char registration[256];
	char reason[256]; /* for people */
	char tags[1024]; /* what the peer's certificate was found to be, a line each */
	unsigned char *peer_certificate; /* the leaf in DER, or NULL */
	size_t peer_certificate_length;
};

/* What a relayed handshake gives; members may be NULL. Data is valid during the call. */
struct handshaked_callbacks {
	void (*crypto)(void *context, unsigned int level, const uint8_t *data, size_t length);
	void (*secret)(void *context, unsigned int level, unsigned int direction, uint32_t cipher_suite,
		       const uint8_t *secret, size_t length);
	void (*transport_parameters)(void *context, const uint8_t *parameters, size_t length, const char *alpn);
	void (*session_ticket)(void *context, const uint8_t *state, size_t length, uint32_t expires);
	void (*done)(void *context, const struct handshaked_result *result);
};

struct handshaked; /* a handshake under way */

/* As in libquic: a program that is linked with it runs with this library instead. */
int quic_client_handshake(int sockfd, const char *pkey_file, const char *hostname, const char *alpns);
int quic_server_handshake(int sockfd, const char *pkey_file, const char *cert_file, const char *alpns);

/* The same with options and a result, which may both be NULL. */
int handshaked_quic_client(int sockfd, const struct handshaked_options *options, struct handshaked_result *result);
int handshaked_quic_server(int sockfd, const struct handshaked_options *options, struct handshaked_result *result);
void handshaked_result_clear(struct handshaked_result *result);

/* The same without blocking: start, and whenever fd is readable continue, which says -EAGAIN until it is over. */
int handshaked_quic_start(int sockfd, int role, const struct handshaked_options *options, struct handshaked **handshake);
int handshaked_fd(const struct handshaked *handshake);
int handshaked_timeout(const struct handshaked *handshake); /* in milliseconds, for poll: continue then at the latest */
int handshaked_continue(struct handshaked *handshake, struct handshaked_result *result);
void handshaked_free(struct handshaked *handshake);

/* For a QUIC stack in userspace: its CRYPTO data goes in, callbacks are called by handshaked_continue(). */
int handshaked_relay_start(int role, const struct handshaked_options *options, const uint8_t *transport_parameters,
			   size_t length, const struct handshaked_callbacks *callbacks, void *context,
			   struct handshaked **handshake);
int handshaked_relay_crypto(struct handshaked *handshake, unsigned int level, const uint8_t *data, size_t length);
int handshaked_relay_transport_parameters(struct handshaked *handshake, const uint8_t *data, size_t length);

#ifdef __cplusplus
}
#endif

#endif
