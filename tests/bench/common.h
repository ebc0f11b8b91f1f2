/* What the two programs of the benchmark share: a clock, and text that grows. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MARK '~' /* a delta begins with ~<nanoseconds of CLOCK_MONOTONIC>~ */
#define MILLISECOND 1000000LL
#define SECOND 1000000000LL

struct text {
    char *bytes;
    size_t length, room;
};

static inline int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline void *grown(void *old, size_t size)
{
    void *memory = realloc(old, size);
    if (!memory) die("memory");
    return memory;
}

/* There is always a byte behind the text for its final zero. */
static inline void make_room(struct text *t, size_t more)
{
    if (t->length + more < t->room) return;
    t->room = (t->length + more + 1) * 2;
    t->bytes = grown(t->bytes, t->room);
}

static inline void append(struct text *t, const void *bytes, size_t count)
{
    make_room(t, count);
    memcpy(t->bytes + t->length, bytes, count);
    t->length += count;
    t->bytes[t->length] = 0;
}

__attribute__((format(printf, 2, 3))) static inline void appendf(struct text *t, const char *format, ...)
{
    va_list arguments;
    make_room(t, 512);
    va_start(arguments, format);
    int count = vsnprintf(t->bytes + t->length, t->room - t->length, format, arguments);
    va_end(arguments);
    if (t->length + count >= t->room) {
        make_room(t, count);
        va_start(arguments, format);
        vsnprintf(t->bytes + t->length, t->room - t->length, format, arguments);
        va_end(arguments);
    }
    t->length += count;
}

static inline struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}
