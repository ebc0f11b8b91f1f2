/* The load of the benchmark: connections that post one body again and again, and read JSON or server-sent events.
 * One thread; every run ends by the clock. Prints one line of JSON, times in milliseconds.
 *
 *   load -p PORT -u PATH -b BODYFILE -c CONNECTIONS -t SECONDS [-w WARM_UP] [-r RAMP] [-x TAIL] [-n DELTAS] [-1] [-H HEADER]...
 *
 * Connections begin evenly over RAMP seconds. What was measured in WARM_UP does not count, nor what comes after SECONDS;
 * requests that run then may take TAIL more. -n: answers are streams of so many deltas. -1: one request a connection,
 * of which the first token and the whole latency count whenever it began. */
#include "common.h"
#include <ctype.h>

#define HEAD 8192
#define LONGEST 300 /* seconds that a run may be told to take */
#define PIECE 262144
#define LAST "response.completed"
static const double PAUSE = 0.02; /* seconds after a failure */

enum phase { RESTING, CONNECTING, SENDING, IN_HEAD, IN_BODY, OVER };
enum chunk { SIZE, DATA, BEHIND, TRAILER };

struct connection {
    int fd;
    enum phase phase;
    int64_t wakes, began;
    size_t sent;
    int head_length, status;
    char head[HEAD];
    bool chunked, closes, reused;
    enum chunk chunk;
    long left; /* of the body or the chunk; -1 until the connection closes */
    bool in_mark;
    int64_t mark, newest;
    int deltas, matched; /* characters of LAST */
};

struct series {
    double *values;
    size_t count, room;
};

static int loop, port, deltas;
static bool once;
static struct text request;
static struct series latency, first, delay;
static int64_t begin_at, count_from, count_until, end_at;
static long answered, counted, failed, refused, told, told_counted, lost, unended;

static bool counts(int64_t time) { return time >= count_from && time < count_until; }

static void note(struct series *s, int64_t nanoseconds)
{
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 65536;
        s->values = grown(s->values, s->room * sizeof *s->values);
    }
    s->values[s->count++] = nanoseconds / (double)MILLISECOND;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *title, struct series *s)
{
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50", .5}, {"p90", .9}, {"p99", .99}, {"max", 1}};
    qsort(s->values, s->count, sizeof *s->values, compare);
    for (int i = 0; s->count && i < 4; i++)
        printf(",\"%s_%s\":%.4f", title, points[i].name, s->values[(size_t)(points[i].share * (s->count - 1))]);
}

/* --- connections ------------------------------------------------------------------------------------------------- */

static void watch(struct connection *c, int how, uint32_t events)
{
    struct epoll_event wanted = {.events = events, .data.ptr = c};
    epoll_ctl(loop, how, c->fd, &wanted);
}

static void hang_up(struct connection *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->reused = false;
}

static void dial(struct connection *c)
{
    struct sockaddr_in address = loopback(port);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->phase = CONNECTING;
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
    if (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
}

static void begin(struct connection *c, int64_t time)
{
    if (time >= count_until || (once && c->began)) {
        hang_up(c);
        c->phase = OVER;
        return;
    }
    c->began = time;
    c->sent = c->head_length = c->deltas = c->matched = 0;
    c->in_mark = false;
    c->newest = 0;
    if (c->fd < 0) {
        dial(c);
        return;
    }
    c->phase = SENDING;
    watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

static void fail(struct connection *c)
{
    failed++;
    hang_up(c);
    c->phase = RESTING;
    c->wakes = now() + (int64_t)(PAUSE * SECOND);
}

static void complete(struct connection *c)
{
    int64_t time = now();
    if (c->status != 200) {
        refused++;
        fail(c);
        return;
    }
    answered++;
    lost += deltas - c->deltas;
    unended += deltas && c->matched < (int)sizeof LAST - 1;
    if (counts(time)) counted++;
    if (once || c->began >= count_from) note(&latency, time - c->began);
    if (c->closes)
        hang_up(c);
    else
        c->reused = true;
    begin(c, time);
}

static void deliver(struct connection *c)
{
    while (c->sent < request.length) {
        ssize_t count = send(c->fd, request.bytes + c->sent, request.length - c->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) return;
        if (count < 0) {
            fail(c);
            return;
        }
        c->sent += count;
    }
    c->phase = IN_HEAD;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

/* Events at the end repeat what the deltas said: only a newer mark is a delta. */
static bool hear(struct connection *c, int64_t time)
{
    if (c->mark <= c->newest) return false;
    c->newest = c->mark;
    told++;
    if (counts(time)) {
        told_counted++;
        note(&delay, time - c->mark);
    }
    if (c->deltas++ == 0 && (once || c->began >= count_from)) note(&first, time - c->began);
    return true;
}

static void match(struct connection *c, char byte)
{
    if (c->matched == (int)sizeof LAST - 1) return;
    c->matched = byte == LAST[c->matched] ? c->matched + 1 : byte == LAST[0];
}

static void read_events(struct connection *c, const char *bytes, const char *end, int64_t time)
{
    const char *behind = c->deltas == deltas ? bytes : end; /* the last delta */
    while (bytes < end) {
        if (!c->in_mark) {
            bytes = memchr(bytes, MARK, end - bytes);
            if (!bytes) break;
            c->in_mark = true;
            c->mark = 0;
        } else if (isdigit((unsigned char)*bytes))
            c->mark = c->mark * 10 + *bytes - '0';
        else {
            c->in_mark = false;
            if (*bytes == MARK && hear(c, time) && c->deltas == deltas) behind = bytes;
        }
        bytes++;
    }
    for (; behind < end; behind++) match(c, *behind);
}

static void read_body(struct connection *c, const char *bytes, long count, int64_t time)
{
    if (deltas) read_events(c, bytes, bytes + count, time);
    if (c->left >= 0) c->left -= count;
}

static bool read_head(struct connection *c)
{
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->status = atoi(c->head + strcspn(c->head, " "));
    c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
    c->left = c->chunked ? 0 : length ? atol(length + 17) : -1;
    c->closes = strcasestr(c->head, "\r\nconnection: close") != NULL || (!c->chunked && !length);
    c->chunk = SIZE;
    c->phase = IN_BODY;
    return !c->chunked && !c->left;
}

/* True at the end of the body. */
static bool read_chunks(struct connection *c, const char *at, const char *end, int64_t time)
{
    while (at < end) {
        if (c->chunk == DATA) {
            long count = end - at < c->left ? end - at : c->left;
            read_body(c, at, count, time);
            at += count;
            if (!c->left) c->chunk = BEHIND;
            continue;
        }
        char byte = *at++;
        if (c->chunk == SIZE && isxdigit((unsigned char)byte))
            c->left = c->left * 16 + (isdigit((unsigned char)byte) ? byte - '0' : (byte | 32) - 'a' + 10);
        else if (byte != '\n')
            continue;
        else if (c->chunk == TRAILER)
            return true;
        else
            c->chunk = c->chunk == BEHIND ? SIZE : c->left ? DATA : TRAILER;
    }
    return false;
}

/* True at the end of the answer. */
static bool read_piece(struct connection *c, const char *bytes, long count, int64_t time)
{
    if (c->phase == IN_HEAD) {
        int before = c->head_length, room = HEAD - 1 - before;
        int taken = count < room ? count : room;
        memcpy(c->head + before, bytes, taken);
        c->head_length += taken;
        c->head[c->head_length] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return false;
        long used = end + 4 - c->head - before;
        end[2] = 0;
        if (read_head(c)) return true;
        bytes += used;
        count -= used;
    }
    if (c->chunked) return read_chunks(c, bytes, bytes + count, time);
    read_body(c, bytes, count, time);
    return c->left == 0;
}

static void receive(struct connection *c)
{
    static char piece[PIECE];
    ssize_t count = recv(c->fd, piece, PIECE, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count > 0 && c->phase >= IN_HEAD) {
        if (read_piece(c, piece, count, now())) complete(c);
    } else if (count <= 0 && c->phase == IN_BODY && c->left < 0)
        complete(c);
    else if (c->reused && c->phase <= IN_HEAD && !c->head_length) {
        /* Kept alive, and closed by the other side just as the next request left. */
        hang_up(c);
        c->sent = 0;
        dial(c);
    } else
        fail(c);
}

static void ready(struct connection *c, uint32_t events)
{
    int fault = 0;
    socklen_t size = sizeof fault;
    if (c->phase == CONNECTING) {
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &fault, &size);
        if (fault) {
            fail(c);
            return;
        }
        c->phase = SENDING;
    }
    if (c->phase == SENDING && (events & EPOLLOUT)) deliver(c);
    if (c->fd >= 0 && (events & ~EPOLLOUT)) receive(c);
}

/* --- the run ----------------------------------------------------------------------------------------------------- */

static void write_request(const char *path, const char *headers, const char *file)
{
    static char body[1 << 20];
    FILE *from = fopen(file, "rb");
    if (!from) die(file);
    size_t length = fread(body, 1, sizeof body, from);
    fclose(from);
    appendf(&request,
            "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: %s\r\n%s"
            "Content-Length: %zu\r\n\r\n",
            path, port, deltas ? "text/event-stream" : "application/json", headers, length);
    append(&request, body, length);
}

/* True while a connection has something to do. */
static bool wake(struct connection *all, int count, int64_t time)
{
    bool busy = false;
    for (int i = 0; i < count; i++) {
        if (all[i].phase == RESTING && all[i].wakes <= time) begin(&all[i], time);
        busy = busy || all[i].phase != OVER;
    }
    return busy;
}

static void run(struct connection *all, int count)
{
    struct epoll_event found[256];
    int64_t looks = 0;
    for (int64_t time = now(); time < end_at; time = now()) {
        if (time >= looks) {
            if (!wake(all, count, time)) return;
            looks = time + MILLISECOND;
        }
        int n = epoll_wait(loop, found, 256, 1);
        for (int i = 0; i < n; i++) ready(found[i].data.ptr, found[i].events);
    }
}

int main(int argc, char **argv)
{
    const char *path = "/v1/responses", *file = "";
    struct text headers = {0};
    double seconds = 1, warm_up = 0, ramp = 0, tail = 10;
    int count = 1, option;
    append(&headers, "", 0);
    while ((option = getopt(argc, argv, "p:u:b:c:t:w:r:x:n:1H:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'b': file = optarg; break;
        case 'c': count = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'w': warm_up = atof(optarg); break;
        case 'r': ramp = atof(optarg); break;
        case 'x': tail = atof(optarg); break;
        case 'n': deltas = atoi(optarg); break;
        case '1': once = true; break;
        case 'H': appendf(&headers, "%s\r\n", optarg); break;
        default: return 2;
        }
    if (seconds + tail > LONGEST) return 2;
    write_request(path, headers.bytes, file);
    struct connection *all = calloc(count, sizeof *all);
    if (!all) die("memory");
    loop = epoll_create1(0);
    begin_at = now();
    count_from = begin_at + (int64_t)(warm_up * SECOND);
    count_until = begin_at + (int64_t)(seconds * SECOND);
    end_at = count_until + (int64_t)(tail * SECOND);
    for (int i = 0; i < count; i++) {
        all[i].fd = -1;
        all[i].wakes = begin_at + (int64_t)(ramp * SECOND) * i / count;
    }
    run(all, count);
    long late = 0;
    for (int i = 0; i < count; i++) late += all[i].phase != OVER;
    int64_t stopped = now();
    double counted_for = ((stopped < count_until ? stopped : count_until) - count_from) / (double)SECOND;
    printf("{\"answered\":%ld,\"failed\":%ld,\"refused\":%ld,\"late\":%ld,\"seconds\":%.3f,\"rate\":%.1f", answered,
           failed, refused, late, counted_for, counted / counted_for);
    print("latency", &latency);
    if (deltas) printf(",\"events\":%ld,\"event_rate\":%.1f,\"lost\":%ld,\"unended\":%ld", told,
                       told_counted / counted_for, lost, unended);
    print("first", &first);
    print("delay", &delay);
    printf("}\n");
}
