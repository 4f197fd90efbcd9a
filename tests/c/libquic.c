/* SPDX-License-Identifier: BSD-3-Clause */
/* libquic ROLE FD KEY NAME-OR-CERTIFICATE ALPNS: a program written for libquic; it declares two of its functions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern int quic_client_handshake(int sockfd, const char *pkey_file, const char *hostname, const char *alpns);
extern int quic_server_handshake(int sockfd, const char *pkey_file, const char *cert_file, const char *alpns);

static const char *or_null(const char *text)
{
	return *text ? text : NULL;
}

int main(int argc, char **argv)
{
	int fd;

	if (argc != 6)
		return 2;
	fd = atoi(argv[2]);
	if (!strcmp(argv[1], "client"))
		printf("%d\n", quic_client_handshake(fd, or_null(argv[3]), or_null(argv[4]), or_null(argv[5])));
	else
		printf("%d\n", quic_server_handshake(fd, or_null(argv[3]), or_null(argv[4]), or_null(argv[5])));
	return 0;
}
