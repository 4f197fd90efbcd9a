"""The text of the manual pages that is not generated from the command line or the tables of settings."""

SUMMARY = {
    "handshakectl.1": "control the TLS handshake daemon",
    "handshaked.8": "TLS 1.3 handshake daemon",
    "handshaked-demux.8": "share UDP ports among QUIC servers",
    "handshaked.toml.5": "settings of the TLS handshake daemon",
    "registrations.d.5": "registrations of the TLS handshake daemon in files",
}

DESCRIPTION = {
    "handshakectl.1": (
        "handshakectl registers certificates with handshaked(8) for server names and application protocols (ALPN),"
        " shows which registration a client would get and why, and watches handshakes and the daemon's health.",
        "A registration may be used by its owner, by root, and by the users and groups that it allows. Ordinary users"
        " register certificates for the names that root has granted them.",
    ),
    "handshaked.8": (
        "handshaked performs TLS 1.3 handshakes for others. QUIC endpoints in userspace pass it the CRYPTO data of"
        " their peers over a Unix socket; the kernel's TLS consumers (NFS, NVMe/TCP, QUIC sockets) pass it their"
        " sockets by upcall over generic netlink. It runs each handshake with the certificate registered for the"
        " client's server name and ALPN, and returns the traffic secrets, so that the connection continues where it"
        " was. Private keys never leave the daemon.",
        "It runs worker processes that share the listening sockets, and replaces those that die. Registrations are"
        " made with handshakectl(1), in files (registrations.d(5)) or over D-Bus.",
    ),
    "handshaked-demux.8": (
        "handshaked-demux listens on UDP ports and delivers each new QUIC connection to the server whose registration"
        " matches the server name and ALPN of the client. It follows the registrations of handshaked(8), without"
        " their keys. Later packets reach the server directly or through a relay, as the registration's deliver setting"
        " says.",
    ),
    "handshaked.toml.5": (
        "handshaked.toml holds the settings of handshaked(8), mainly for kernel upcalls. It is a TOML file; every"
        " setting has a default, and the file may be missing. handshaked --check-config reports unknown and invalid"
        " settings with their line.",
        "The daemon reads [client] and [server], and the files that they name, again every minute and on handshakectl"
        " reload. If they are not usable, the previous settings stay in effect. All other settings take effect at the"
        " next start.",
    ),
    "registrations.d.5": (
        "The daemon follows every *.toml file in registrations.d. Each table [registration.NAME] is one registration;"
        " new, changed and removed tables take effect by themselves, and renewed certificate and key files are picked"
        " up. These registrations cannot be changed by handshakectl(1).",
        "A file must belong to root or the daemon's user, and nobody else may have write access. Errors are reported"
        " with file and line by handshakectl status, in the log, and by handshaked --check-config; what cannot be read"
        " leaves the previous registrations in effect.",
        "Paths are absolute, or begin with $CREDENTIALS_DIRECTORY/ (LoadCredential= in systemd.exec(5)).",
    ),
}

EXIT_STATUS = {
    "handshakectl.1": (
        ("0", "Success."),
        ("1", "The daemon refused, cannot be reached, or a problem was found; the reason is on standard error."),
        ("2", "Invalid usage."),
        ("130", "Interrupted by SIGINT."),
    ),
    "handshaked.8": (
        ("0", "Stopped by SIGTERM or SIGINT, or the configuration that --check-config read is valid."),
        ("1", "The daemon cannot start, or --check-config found a problem; see the log or standard error."),
        ("2", "Invalid usage."),
    ),
    "handshaked-demux.8": (
        ("0", "Stopped by SIGTERM or SIGINT, or --status succeeded."),
        ("1", "The demultiplexer cannot start, or --status found none; see the log or standard error."),
        ("2", "Invalid usage."),
    ),
}  # fmt: skip

_DIRECTORIES = (
    (
        "HANDSHAKED_DIRECTORY",
        "Directory of the daemon's sockets (default: that of the user's own daemon, else /run/handshaked).",
    ),
)  # fmt: skip
_SYSTEMD = (
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "Sockets passed by systemd; see sd_listen_fds(3)."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID", "Service notification and watchdog; see sd_notify(3)."),
    ("JOURNAL_STREAM", "Set by systemd; the log goes to the journal."),
)
ENVIRONMENT = {
    "handshakectl.1": (*_DIRECTORIES, ("NO_COLOR", "If set, the output has no colours.")),
    "handshaked.8": (
        (
            "STATE_DIRECTORY, RUNTIME_DIRECTORY, CONFIGURATION_DIRECTORY",
            "Directories, as set by systemd; options override them.",
        ),
        ("XDG_STATE_HOME, XDG_RUNTIME_DIR, XDG_CONFIG_HOME", "Base directories of a daemon run by an ordinary user."),
        ("CREDENTIALS_DIRECTORY", "Directory of files passed by LoadCredential= in systemd.exec(5)."),
        *_SYSTEMD,
    ),
    "handshaked-demux.8": (
        *_DIRECTORIES,
        ("HANDSHAKED_DEMUX_DIRECTORY", "Directory of the demultiplexer's socket (default: /run/handshaked-demux)."),
        *_SYSTEMD,
    ),
}  # fmt: skip

_TOML = ("/etc/handshaked/handshaked.toml", "Settings; see handshaked.toml(5).")
_DROP_INS = ("/etc/handshaked/registrations.d/*.toml", "Registrations in files; see registrations.d(5).")
_HANDSHAKE = ("/run/handshaked/handshake.sock", "Socket for endpoints. Every user may connect.")
_CONTROL = ("/run/handshaked/control.sock", "Socket for handshakectl. Every user may connect.")
_DEMUX = ("/run/handshaked-demux/accept.sock", "Socket of the demultiplexer for servers. Every user may connect.")
_BINDER = ("/run/handshaked-demux-sockets/binder.sock", "Socket at which the demultiplexer gets UDP sockets.")
_REGISTRY = ("/var/lib/handshaked/registry.db", "Registrations, grants and private keys; only the daemon can read it.")
FILES = {
    "handshakectl.1": (_CONTROL, _HANDSHAKE, _DROP_INS),
    "handshaked.8": (_HANDSHAKE, _CONTROL, _TOML, _DROP_INS, _REGISTRY),
    "handshaked-demux.8": (_DEMUX, _BINDER, _CONTROL),
    "handshaked.toml.5": (_TOML,),
    "registrations.d.5": (_DROP_INS,),
}

REGISTRATION_KEYS = (
    (
        "credentials",
        "list of tables",
        "Credentials: tables with the keys certificate, key, passphrase and ocsp.",
    ),
    ("owner", "user", "Owner of the registration and its credential files (default: the owner of this file)."),
)
"""Keys of registrations in files that are not in the table of settings."""

HANDSHAKED_TOML = """\
# /etc/handshaked/handshaked.toml

[client]                                # NFS mounts with xprtsec=, NVMe/TCP hosts
trust = "/etc/ssl/certs/ca-certificates.crt"
revocation_lists = ["/etc/handshaked/ca.crl"]
require_revocation_lists = false
revocation_list_grace = 12
certificate = "/etc/handshaked/client.pem"
private_key = "/etc/handshaked/client.key"
peers = ["allow san=dns:*.example.com tag=ours", "deny fingerprint=00"]
alpn = ["sunrpc"]

[server]                                # NFS server
trust = "/etc/handshaked/clients-ca.pem"
revocation_lists = ["/etc/handshaked/clients-ca.crl"]
certificate = "/etc/handshaked/server.pem"
private_key = "/etc/handshaked/server.key"
alpn = ["sunrpc"]

[kernel]
enabled = true
network_namespaces = [".", "storage"]
keyrings = ["nvme-keys"]

[limits]
kernel_handshakes = 1024
client_timeout = 8.0
server_timeout = 4.5
longest_timeout = 60.0

[log]
level = "info"
# keylog = "/var/lib/handshaked/keylog"  # for debugging only: whoever can read it can decrypt connections
"""

REGISTRATIONS = """\
# /etc/handshaked/registrations.d/example.toml

[registration.web]
server-names = ["www.example.com", "*.cdn.example.com"]
alpns = ["h3"]
certificate = "/etc/letsencrypt/live/www.example.com/fullchain.pem"
key = "/etc/letsencrypt/live/www.example.com/privkey.pem"
allow-users = ["www-data"]
deliver = "relay"

[registration.smb]
server-names = ["files.example.com"]
alpns = ["smb"]
credentials = [                         # the first that the client's signature schemes allow is used
    { certificate = "/etc/handshaked/files-ecdsa.pem", key = "/etc/handshaked/files-ecdsa.key" },
    { certificate = "/etc/handshaked/files-rsa.pem", key = "/etc/handshaked/files-rsa.key" },
]
allow-groups = ["users"]
allow-kernel = true
client-auth = "require"
client-ca = "/etc/handshaked/clients-ca.pem"
tickets = 0
"""

EXAMPLES = {
    "handshakectl.1": (
        (
            "Register a certificate that the web server, which runs as www-data, may use:",
            "handshakectl register web --cert cert.pem --key key.pem --alpn h3 --server-name www.example.com"
            " --allow-user www-data",
        ),
        (
            "Show which registration a client would get, and why:",
            "handshakectl explain --server-name www.example.com --alpn h3",
        ),
        ("Test the registration with a real handshake:", "handshakectl test web --ca ca.pem"),
        (
            "Allow a user to register names of its own:",
            "handshakectl grant --user alice --alpn h3 --server-name '*.alice.example.com'",
        ),
        ("Watch handshakes that fail:", "handshakectl monitor --failed"),
        ("Find out what is wrong:", "handshakectl doctor"),
    ),
    "handshaked.8": (
        ("Install the units and start the daemon:", "handshakectl install-systemd --now"),
        ("Check the settings and the files in registrations.d:", "handshaked --check-config"),
        ("Run without systemd, with metrics:", "handshaked --metrics 127.0.0.1:9464"),
    ),
    "handshaked-demux.8": (
        ("Share UDP port 443 on all addresses:", "handshaked-demux"),
        ("Share a port of one address:", "handshaked-demux --listen 192.0.2.1:8443"),
        ("Show the counters of the running demultiplexer:", "handshaked-demux --status"),
    ),
    "handshaked.toml.5": (("A complete file:", HANDSHAKED_TOML),),
    "registrations.d.5": (("A complete file:", REGISTRATIONS),),
}  # fmt: skip
