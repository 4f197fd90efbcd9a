/* A library to preload, which lets chosen system calls of the daemon fail.
 *
 * All processes share the file that FAULTS_CONTROL names (see injector.py). While it is armed for a process, the
 * library counts the calls of each function, and calls number `first`, `first` + `step`, .. up to `last` of `function`
 * fail with `error`, or, if that is SHORT, transfer one byte. Nothing fails before the process has set its limits, after all imports.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SHORT = -1 };
enum role { NOBODY, DAEMON = 1, WORKER = 2 };
enum function {
    OPEN, READ, WRITE, PREAD, PWRITE, FSYNC, FTRUNCATE, STAT, UNLINK, MKDIR, RENAME, LOCK, UNLOCK, MMAP, CLOSE, DUP,
    READLINK, SOCKET, SOCKETPAIR, BIND, LISTEN, CONNECT, ACCEPT, GETSOCKOPT, SETSOCKOPT, SEND, RECEIVE, EPOLL_CREATE,
    EPOLL_CTL, EPOLL_WAIT, PIPE, INOTIFY_INIT, INOTIFY_ADD, THREAD, FUNCTIONS
};

struct control {
    atomic_int armed;  /* roles */
    int function, error, first, last, step;
    atomic_int injected;
    atomic_int calls[FUNCTIONS];
};

static struct control *control;
static enum role role;
static atomic_int begun;

static int has_word(const char *text, ssize_t size, const char *word)
{
    return size > 0 && memmem(text, size, word, strlen(word)) != NULL;
}

__attribute__((constructor)) static void start(void)
{
    char line[4096];
    const char *path = getenv("FAULTS_CONTROL");
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = syscall(SYS_read, fd, line, sizeof(line));
    syscall(SYS_close, fd);
    role = has_word(line, size, "handshaked.daemon") ? DAEMON : has_word(line, size, "handshaked.worker") ? WORKER : NOBODY;
    if (path == NULL || role == NOBODY)
        return;
    fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *mapped = (void *)syscall(SYS_mmap, NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped != MAP_FAILED)
        control = mapped;
}

/* Return the errno that this call of `function` fails with, SHORT, or 0. */
static int fault(enum function function)
{
    if (control == NULL || !begun || !(atomic_load(&control->armed) & role))
        return 0;
    int call = atomic_fetch_add(&control->calls[function], 1) + 1;
    if ((int)function != control->function || call < control->first || call > control->last
        || (call - control->first) % control->step)
        return 0;
    atomic_fetch_add(&control->injected, 1);
    return control->error;
}

static int is_kind(int fd, mode_t kind)
{
    struct stat status;
    return syscall(SYS_fstat, fd, &status) == 0 && (status.st_mode & S_IFMT) == kind;
}

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

#define ARGUMENTS(...) __VA_ARGS__
/* Define `name`, which fails with -1. */
#define WRAP(type, name, function, parameters, arguments)            \
    type name(parameters)                                            \
    {                                                                \
        static type (*real)(parameters);                             \
        int error = fault(function);                                 \
        if (error > 0) {                                             \
            errno = error;                                           \
            return -1;                                               \
        }                                                            \
        if (real == NULL)                                            \
            real = (type(*)(parameters))next(#name);                 \
        return real(arguments);                                      \
    }
/* Define `name`, which transfers up to `size` bytes. */
#define TRANSFER(name, function, parameters, arguments)              \
    ssize_t name(parameters)                                         \
    {                                                                \
        static ssize_t (*real)(parameters);                          \
        int error = fault(function);                                 \
        if (error > 0) {                                             \
            errno = error;                                           \
            return -1;                                               \
        }                                                            \
        if (error == SHORT && size > 1)                              \
            size = 1;                                                \
        if (real == NULL)                                            \
            real = (ssize_t(*)(parameters))next(#name);              \
        return real(arguments);                                      \
    }
#define OPENS(name, first, parameters)                               \
    int name(parameters, int flags, ...)                             \
    {                                                                \
        static int (*real)(parameters, int, ...);                    \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                \
        int error = fault(OPEN);                                     \
        if (error > 0) {                                             \
            errno = error;                                           \
            return -1;                                               \
        }                                                            \
        if (real == NULL)                                            \
            real = (int (*)(parameters, int, ...))next(#name);       \
        return real(ARGUMENTS first, flags, mode);                   \
    }

OPENS(open, (path), const char *path)
OPENS(open64, (path), const char *path)

int openat(int at, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    int error = fault(OPEN);
    if (error > 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_openat, at, path, flags, mode);
}

TRANSFER(pread, PREAD, ARGUMENTS(int fd, void *data, size_t size, off_t at), ARGUMENTS(fd, data, size, at))
TRANSFER(pread64, PREAD, ARGUMENTS(int fd, void *data, size_t size, off64_t at), ARGUMENTS(fd, data, size, at))
TRANSFER(pwrite, PWRITE, ARGUMENTS(int fd, const void *data, size_t size, off_t at), ARGUMENTS(fd, data, size, at))
TRANSFER(pwrite64, PWRITE, ARGUMENTS(int fd, const void *data, size_t size, off64_t at), ARGUMENTS(fd, data, size, at))

/* Files only: sockets have other calls, and the log, if it is a file, is not what is tested. */
ssize_t read(int fd, void *data, size_t size)
{
    int error = is_kind(fd, S_IFREG) ? fault(READ) : 0;
    if (error > 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_read, fd, data, error == SHORT && size > 1 ? 1 : size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    int error = fd > 2 && is_kind(fd, S_IFREG) ? fault(WRITE) : 0;
    if (error > 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_write, fd, data, error == SHORT && size > 1 ? 1 : size);
}

WRAP(int, fsync, FSYNC, ARGUMENTS(int fd), ARGUMENTS(fd))
WRAP(int, fdatasync, FSYNC, ARGUMENTS(int fd), ARGUMENTS(fd))
WRAP(int, ftruncate, FTRUNCATE, ARGUMENTS(int fd, off_t size), ARGUMENTS(fd, size))
WRAP(int, ftruncate64, FTRUNCATE, ARGUMENTS(int fd, off64_t size), ARGUMENTS(fd, size))
WRAP(int, stat, STAT, ARGUMENTS(const char *path, struct stat *found), ARGUMENTS(path, found))
WRAP(int, stat64, STAT, ARGUMENTS(const char *path, struct stat64 *found), ARGUMENTS(path, found))
WRAP(int, lstat64, STAT, ARGUMENTS(const char *path, struct stat64 *found), ARGUMENTS(path, found))
WRAP(int, fstat, STAT, ARGUMENTS(int fd, struct stat *found), ARGUMENTS(fd, found))
WRAP(int, fstat64, STAT, ARGUMENTS(int fd, struct stat64 *found), ARGUMENTS(fd, found))
WRAP(int, unlink, UNLINK, ARGUMENTS(const char *path), ARGUMENTS(path))
WRAP(int, mkdir, MKDIR, ARGUMENTS(const char *path, mode_t mode), ARGUMENTS(path, mode))
WRAP(int, rename, RENAME, ARGUMENTS(const char *from, const char *to), ARGUMENTS(from, to))
WRAP(int, flock, LOCK, ARGUMENTS(int fd, int operation), ARGUMENTS(fd, operation))
WRAP(ssize_t, readlink, READLINK, ARGUMENTS(const char *path, char *found, size_t size), ARGUMENTS(path, found, size))

static int control_file(int fd, int command, void *argument)
{
    int error = 0;
    if (command == F_DUPFD || command == F_DUPFD_CLOEXEC)
        error = fault(DUP);
    else if (command == F_SETLK)
        error = fault(((struct flock *)argument)->l_type == F_UNLCK ? UNLOCK : LOCK);
    if (error > 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_fcntl, fd, command, argument);
}

#define CONTROLS(name)                                               \
    int name(int fd, int command, ...)                               \
    {                                                                \
        va_list rest;                                                \
        va_start(rest, command);                                     \
        void *argument = va_arg(rest, void *);                       \
        va_end(rest);                                                \
        return control_file(fd, command, argument);                  \
    }
CONTROLS(fcntl)
CONTROLS(fcntl64)

/* Files only. The descriptor is closed whatever close() returns: close(2). */
int close(int fd)
{
    int error = is_kind(fd, S_IFREG) ? fault(CLOSE) : 0, result = syscall(SYS_close, fd);
    if (error > 0 && result == 0) {
        errno = error;
        return -1;
    }
    return result;
}

static void *map(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    int error = fd >= 0 ? fault(MMAP) : 0;
    if (error > 0) {
        errno = error;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return map(at, size, protection, flags, fd, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset)
{
    return map(at, size, protection, flags, fd, offset);
}

WRAP(int, socket, SOCKET, ARGUMENTS(int family, int type, int protocol), ARGUMENTS(family, type, protocol))
WRAP(int, socketpair, SOCKETPAIR, ARGUMENTS(int family, int type, int protocol, int pair[2]),
     ARGUMENTS(family, type, protocol, pair))
WRAP(int, bind, BIND, ARGUMENTS(int fd, const struct sockaddr *address, socklen_t size), ARGUMENTS(fd, address, size))
WRAP(int, listen, LISTEN, ARGUMENTS(int fd, int backlog), ARGUMENTS(fd, backlog))
WRAP(int, connect, CONNECT, ARGUMENTS(int fd, const struct sockaddr *address, socklen_t size),
     ARGUMENTS(fd, address, size))
WRAP(int, accept, ACCEPT, ARGUMENTS(int fd, struct sockaddr *address, socklen_t *size), ARGUMENTS(fd, address, size))
WRAP(int, accept4, ACCEPT, ARGUMENTS(int fd, struct sockaddr *address, socklen_t *size, int flags),
     ARGUMENTS(fd, address, size, flags))
WRAP(int, getsockopt, GETSOCKOPT, ARGUMENTS(int fd, int level, int name, void *value, socklen_t *size),
     ARGUMENTS(fd, level, name, value, size))
WRAP(int, setsockopt, SETSOCKOPT, ARGUMENTS(int fd, int level, int name, const void *value, socklen_t size),
     ARGUMENTS(fd, level, name, value, size))

static int is_stream(int fd)
{
    int type = 0;
    socklen_t size = sizeof(type);
    return syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    int error = fault(SEND);
    if (error > 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_sendto, fd, data, error == SHORT && is_stream(fd) && size > 1 ? 1 : size, flags, NULL, 0);
}

WRAP(ssize_t, sendto, SEND,
     ARGUMENTS(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t length),
     ARGUMENTS(fd, data, size, flags, to, length))
WRAP(ssize_t, sendmsg, SEND, ARGUMENTS(int fd, const struct msghdr *message, int flags), ARGUMENTS(fd, message, flags))
WRAP(ssize_t, recvmsg, RECEIVE, ARGUMENTS(int fd, struct msghdr *message, int flags), ARGUMENTS(fd, message, flags))
WRAP(int, epoll_create1, EPOLL_CREATE, ARGUMENTS(int flags), ARGUMENTS(flags))

/* Only adding allocates. */
int epoll_ctl(int fd, int operation, int of, struct epoll_event *event)
{
    int error = operation == EPOLL_CTL_ADD ? fault(EPOLL_CTL) : 0;
    if (error > 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_epoll_ctl, fd, operation, of, event);
}

WRAP(int, epoll_wait, EPOLL_WAIT, ARGUMENTS(int fd, struct epoll_event *events, int most, int milliseconds),
     ARGUMENTS(fd, events, most, milliseconds))
WRAP(int, pipe2, PIPE, ARGUMENTS(int ends[2], int flags), ARGUMENTS(ends, flags))
WRAP(int, inotify_init1, INOTIFY_INIT, ARGUMENTS(int flags), ARGUMENTS(flags))
WRAP(int, inotify_add_watch, INOTIFY_ADD, ARGUMENTS(int fd, const char *path, uint32_t mask), ARGUMENTS(fd, path, mask))

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int error = fault(THREAD);
    if (error > 0)
        return error;
    if (real == NULL)
        real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))next("pthread_create");
    return real(thread, attributes, run, argument);
}

#define LIMITS(name, type)                                           \
    int name(__rlimit_resource_t resource, const struct type *limit) \
    {                                                                \
        begun = 1;                                                   \
        return syscall(SYS_setrlimit, resource, limit);              \
    }
LIMITS(setrlimit, rlimit)
LIMITS(setrlimit64, rlimit64)
