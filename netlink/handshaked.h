/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS 1.3 handshakes done by handshaked, a daemon that keeps certificates and private keys.
 *
 * Functions return 0 or a negative errno. See quic_client_handshake(3), handshaked_quic_client(3), handshaked_relay(3).
 */
#ifndef HANDSHAKED_H
#define HANDSHAKED_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Roles; like levels and directions, numbered as on the kernel's QUIC sockets. */
#define HANDSHAKED_CLIENT 1
#define HANDSHAKED_SERVER 2

struct handshaked_bytes {
	const uint8_t *data;
	size_t length;
};

/*
 * The caller sets the size of each of the following structures to its sizeof, which tells the library with which
 * version of this header the caller was compiled. New members are added at the end.
 */

/* Options of a handshake. Zero means the daemon's default. */
struct handshaked_options {
	size_t size;
	const char *server_name; /* sent and verified by a client */
	const char *alpns; /* comma-separated; NULL: those of the socket */
	const char *registration; /* server: the only one to use; client: whose certificate to show */
	const char *certificate_file; /* PEM chain to use instead of a registration, with key_file */
	const char *key_file;
	const char *psk_file; /* pre-shared keys: lines IDENTITY:KEY, the key in hexadecimal */
	const char *socket_path; /* of the daemon; NULL: as in ENVIRONMENT of quic_client_handshake(3) */
	unsigned int timeout_ms; /* for the whole handshake */
	unsigned int ticket_seconds; /* client: how long to wait for session tickets after the handshake */
	int unauthenticated; /* client: do not verify the server */
	struct handshaked_bytes session_ticket; /* client: resume with this ticket instead of the socket's */
	const struct handshaked_bytes *trust_anchors; /* DER certificates that replace the daemon's trust store */
	size_t trust_anchor_count;
	const struct handshaked_bytes *early_data; /* consent to 0-RTT; empty on a client */
};

/* How a handshake ended. Free its members with handshaked_result_clear(). */
struct handshaked_result {
	size_t size;
	int status; /* 0, or an errno */
	int alert; /* TLS alert that ended the handshake; -1: none */
	uint32_t cipher_suite; /* TLS code point */
	int resumed;
	int early_data_accepted;
	char alpn[256];
	char server_name[256];
	char registration[256];
	char reason[256]; /* why it failed, for people */
	char tags[1024]; /* tags of the peer's certificate, one per line */
	unsigned char *peer_certificate; /* leaf in DER, or NULL */
	size_t peer_certificate_length;
	int quic_error; /* close the connection with this QUIC error; 0: INTERNAL_ERROR if it failed */
};

/*
 * Called by handshaked_continue() for a relayed handshake; may be NULL. Data is valid during the call only. A callback
 * may call all functions; for its own handshake, handshaked_continue() returns -EBUSY.
 */
struct handshaked_callbacks {
	size_t size;
	void (*crypto)(void *context, unsigned int level, const uint8_t *data, size_t length);
	void (*secret)(void *context, unsigned int level, unsigned int direction, uint32_t cipher_suite,
		       const uint8_t *secret, size_t length);
	void (*transport_parameters)(void *context, const uint8_t *parameters, size_t length, const char *alpn);
	void (*session_ticket)(void *context, const uint8_t *state, size_t length, uint32_t expires);
	void (*done)(void *context, const struct handshaked_result *result);
	void (*close)(void *context, int quic_error, const char *reason); /* after done: close the connection */
};

struct handshaked; /* a handshake in progress */

/* The functions of libquic: a program built for it can use this library instead. */
int quic_client_handshake(int sockfd, const char *pkey_file, const char *hostname, const char *alpns);
int quic_server_handshake(int sockfd, const char *pkey_file, const char *cert_file, const char *alpns);

/* The same with options and a result, each of which may be NULL. */
int handshaked_quic_client(int sockfd, const struct handshaked_options *options, struct handshaked_result *result);
int handshaked_quic_server(int sockfd, const struct handshaked_options *options, struct handshaked_result *result);
void handshaked_result_clear(struct handshaked_result *result);

/*
 * The same without blocking. If the start fails, result says why; it may be NULL. Call handshaked_continue() when the
 * descriptor is readable or the timeout has passed; it returns -EAGAIN until the handshake is over.
 */
int handshaked_quic_start(int sockfd, int role, const struct handshaked_options *options,
			  struct handshaked_result *result, struct handshaked **handshake);
int handshaked_fd(const struct handshaked *handshake);
int handshaked_timeout(const struct handshaked *handshake); /* in milliseconds, for poll() */
int handshaked_continue(struct handshaked *handshake, struct handshaked_result *result);
void handshaked_free(struct handshaked *handshake);

/* For a userspace QUIC stack: pass in its CRYPTO data; handshaked_continue() calls the callbacks. */
int handshaked_relay_start(int role, const struct handshaked_options *options, const uint8_t *transport_parameters,
			   size_t length, const struct handshaked_callbacks *callbacks, void *context,
			   struct handshaked_result *result, struct handshaked **handshake);
int handshaked_relay_crypto(struct handshaked *handshake, unsigned int level, const uint8_t *data, size_t length);
int handshaked_relay_transport_parameters(struct handshaked *handshake, const uint8_t *data, size_t length);

#ifdef __cplusplus
}
#endif

#endif
