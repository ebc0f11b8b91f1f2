/* The upstream of the benchmark: answers /v1/responses and /v1/chat/completions as a model's server does, whole or as
 * server-sent events in their exact order. One thread; each connection has a timer of its own.
 *
 *   mock PORT
 *
 * A request says anywhere in its text what the answer is to be like: "[bench deltas=200 every=100 first=0 size=24]",
 * times in milliseconds, sizes in bytes. every=0 is the firehose: as fast as the other side reads. call=1: the answer is a
 * call of the function `echo`, until the request brings an output. /mcp is an MCP server with that one tool.
 * Each delta begins with the time at which it was sent (MARK), for a client on the same machine to compare. */
#include "common.h"

#define BURST 64 /* events of a firehose before the next connection has its turn */
#define READ 65536

#define RESPONSE_FRONT                                                                                                 \
    "{\"id\":\"resp_%s\",\"object\":\"response\",\"created_at\":%ld,\"status\":\"%s\",\"background\":false,"           \
    "\"error\":null,\"incomplete_details\":null,\"instructions\":null,\"max_output_tokens\":null,"                     \
    "\"max_tool_calls\":null,\"model\":\"gpt-4o-2024-08-06\",\"output\":["
#define RESPONSE_BACK                                                                                                  \
    "],\"parallel_tool_calls\":true,\"previous_response_id\":null,\"prompt_cache_key\":null,"                          \
    "\"reasoning\":{\"effort\":null,\"summary\":null},\"safety_identifier\":null,\"service_tier\":\"default\","        \
    "\"store\":false,\"temperature\":1.0,\"text\":{\"format\":{\"type\":\"text\"},\"verbosity\":\"medium\"},"          \
    "\"tool_choice\":\"auto\",\"tools\":[],\"top_logprobs\":0,\"top_p\":1.0,\"truncation\":\"disabled\",\"usage\":"
#define ITEM_FRONT "{\"id\":\"msg_%s\",\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":["
#define PART_FRONT "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\""
#define PLACE "\"item_id\":\"msg_%s\",\"output_index\":0,\"content_index\":0,"
#define CALL_ITEM                                                                                                      \
    "{\"id\":\"fc_%s\",\"type\":\"function_call\",\"status\":\"%s\",\"arguments\":\"%s\",\"call_id\":\"call_%s\","            \
    "\"name\":\"echo\"}"
#define CALL_ARGUMENTS "{\\\"text\\\":\\\"Oslo\\\"}"
#define MCP_FRONT "{\"jsonrpc\":\"2.0\",\"id\":%d,\"result\":{\"resultType\":\"complete\","
#define MCP_DISCOVERED                                                                                                 \
    "\"cacheScope\":\"private\",\"capabilities\":{\"tools\":{\"listChanged\":false}},"                                   \
    "\"supportedVersions\":[\"2026-07-28\"],\"ttlMs\":0"
#define MCP_LISTED                                                                                                     \
    "\"cacheScope\":\"private\",\"ttlMs\":0,\"tools\":[{\"name\":\"echo\",\"description\":\"Returns the text.\","          \
    "\"inputSchema\":{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}}}}]"
#define MCP_CALLED "\"content\":[{\"type\":\"text\",\"text\":\"Oslo\"}],\"isError\":false"
#define CHAT_FRONT                                                                                                     \
    "{\"id\":\"chatcmpl-%s\",\"object\":\"chat.completion%s\",\"created\":%ld,\"model\":\"gpt-4o-2024-08-06\","        \
    "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0\",\"choices\":["
#define CHAT_DELTA_BACK "},\"logprobs\":null,\"finish_reason\":%s}],\"usage\":null}"
#define CHAT_USAGE "{\"prompt_tokens\":820,\"completion_tokens\":%d,\"total_tokens\":%d}"

enum phase { IDLE, WAITING, TALKING };

struct connection;

struct source { /* what epoll watches */
    void (*ready)(struct connection *, uint32_t);
    struct connection *connection;
};

struct connection {
    int fd, timer;
    struct source on_socket, on_timer;
    uint32_t watched;
    enum phase phase;
    bool chat, streamed, calling, gone;
    int deltas, every, first, size; /* as the request wants them */
    int told, sequence;
    int64_t newest; /* mark */
    size_t sent;    /* of `out` */
    struct text in, out;
    char id[40];
    struct connection *next; /* of those that are gone */
};

static int loop;
static struct connection *gone;
static struct text event;
static uint64_t answers;

static void begin(struct connection *c);

static void drop(struct connection *c)
{
    if (c->gone) return;
    c->gone = true;
    close(c->fd);
    close(c->timer);
    c->next = gone;
    gone = c;
}

static void watch(struct connection *c, uint32_t events)
{
    if (c->watched == events || c->gone) return;
    c->watched = events;
    struct epoll_event wanted = {.events = events, .data.ptr = &c->on_socket};
    epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &wanted);
}

static bool pending(struct connection *c) { return c->out.length > 0; }

static void push(struct connection *c)
{
    while (c->sent < c->out.length) {
        ssize_t count = send(c->fd, c->out.bytes + c->sent, c->out.length - c->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) return;
        if (count < 0) {
            drop(c);
            return;
        }
        c->sent += count;
    }
    c->sent = c->out.length = 0;
}

static void arm(struct connection *c, int64_t first, int64_t every)
{
    struct itimerspec when = {.it_value = {first / SECOND, first % SECOND},
                              .it_interval = {every / SECOND, every % SECOND}};
    timerfd_settime(c->timer, 0, &when, NULL);
}

/* --- what is said ------------------------------------------------------------------------------------------------ */

static void fill(struct text *t, int count)
{
    static const char words[] = "lorem ipsum dolor sit amet, consectetur adipiscing elit sed do ";
    for (; count > 0; count -= sizeof words - 1) append(t, words, count < (int)sizeof words ? count : (int)sizeof words - 1);
}

static void put_part(struct text *t, struct connection *c, bool whole)
{
    append(t, PART_FRONT, sizeof PART_FRONT - 1);
    if (whole) fill(t, c->deltas * c->size);
    append(t, "\"}", 2);
}

static void put_item(struct text *t, struct connection *c, bool whole)
{
    if (c->calling) {
        appendf(t, CALL_ITEM, c->id, whole ? "completed" : "in_progress", whole ? CALL_ARGUMENTS : "", c->id);
        return;
    }
    appendf(t, ITEM_FRONT, c->id, whole ? "completed" : "in_progress");
    if (whole) put_part(t, c, true);
    append(t, "]}", 2);
}

static void put_response(struct text *t, struct connection *c, bool whole)
{
    appendf(t, RESPONSE_FRONT, c->id, (long)time(NULL), whole ? "completed" : "in_progress");
    if (whole) put_item(t, c, true);
    append(t, RESPONSE_BACK, sizeof RESPONSE_BACK - 1);
    if (whole)
        appendf(t,
                "{\"input_tokens\":820,\"input_tokens_details\":{\"cached_tokens\":0},\"output_tokens\":%d,"
                "\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%d}",
                c->deltas, 820 + c->deltas);
    else
        append(t, "null", 4);
    appendf(t, ",\"user\":null,\"metadata\":{}}");
}

static void put_completion(struct text *t, struct connection *c)
{
    appendf(t, CHAT_FRONT "{\"index\":0,\"message\":{\"role\":\"assistant\",\"refusal\":null,\"content\":\"", c->id, "",
            (long)time(NULL));
    fill(t, c->deltas * c->size);
    appendf(t, "\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":" CHAT_USAGE "}", c->deltas,
            820 + c->deltas);
}

/* Each event is a chunk. */
static void tell(struct connection *c)
{
    append(&event, "\n\n", 2);
    appendf(&c->out, "%zx\r\n", event.length);
    append(&c->out, event.bytes, event.length);
    append(&c->out, "\r\n", 2);
    event.length = 0;
}

static void name(struct connection *c, const char *type)
{
    appendf(&event, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,", type, type, c->sequence++);
}

static void tell_response(struct connection *c, const char *type, bool whole)
{
    name(c, type);
    append(&event, "\"response\":", 11);
    put_response(&event, c, whole);
    append(&event, "}", 1);
    tell(c);
}

static void tell_item(struct connection *c, const char *type, bool whole)
{
    name(c, type);
    append(&event, "\"output_index\":0,\"item\":", 24);
    put_item(&event, c, whole);
    append(&event, "}", 1);
    tell(c);
}

static void tell_part(struct connection *c, const char *type, bool whole)
{
    name(c, type);
    appendf(&event, PLACE "\"part\":", c->id);
    put_part(&event, c, whole);
    append(&event, "}", 1);
    tell(c);
}

static void tell_chat(struct connection *c, const char *delta, const char *reason)
{
    appendf(&event, "data: " CHAT_FRONT "{\"index\":0,\"delta\":{%s" CHAT_DELTA_BACK, c->id, ".chunk",
            (long)time(NULL), delta, reason);
    tell(c);
}

static void tell_delta(struct connection *c)
{
    static struct text said;
    int64_t mark = now();
    c->newest = mark > c->newest ? mark : c->newest + 1;
    said.length = 0;
    appendf(&said, "%c%lld%c", MARK, (long long)c->newest, MARK);
    fill(&said, c->size - (int)said.length);
    c->told++;
    if (c->chat) {
        struct text delta = {0};
        appendf(&delta, "\"content\":\"%s\"", said.bytes);
        tell_chat(c, delta.bytes, "null");
        free(delta.bytes);
        return;
    }
    name(c, "response.output_text.delta");
    appendf(&event, PLACE "\"delta\":\"%s\",\"logprobs\":[]}", c->id, said.bytes);
    tell(c);
}

static void tell_head(struct connection *c)
{
    appendf(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
                     "Transfer-Encoding: chunked\r\n\r\n");
    if (c->chat) return;
    tell_response(c, "response.created", false);
    tell_response(c, "response.in_progress", false);
}

static void tell_beginning(struct connection *c)
{
    if (c->chat) {
        tell_chat(c, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null", "null");
        return;
    }
    tell_item(c, "response.output_item.added", false);
    if (c->calling) return;
    tell_part(c, "response.content_part.added", false);
}

static void tell_end(struct connection *c)
{
    if (c->calling) {
        name(c, "response.function_call_arguments.delta");
        appendf(&event, "\"item_id\":\"fc_%s\",\"output_index\":0,\"delta\":\"" CALL_ARGUMENTS "\"}", c->id);
        tell(c);
        name(c, "response.function_call_arguments.done");
        appendf(&event, "\"item_id\":\"fc_%s\",\"output_index\":0,\"name\":\"echo\",\"arguments\":\"" CALL_ARGUMENTS "\"}",
                c->id);
        tell(c);
        tell_item(c, "response.output_item.done", true);
        tell_response(c, "response.completed", true);
    } else if (c->chat) {
        tell_chat(c, "", "\"stop\"");
        appendf(&event, "data: " CHAT_FRONT "],\"usage\":" CHAT_USAGE "}", c->id, ".chunk", (long)time(NULL), c->deltas,
                820 + c->deltas);
        tell(c);
        append(&event, "data: [DONE]", 12);
        tell(c);
    } else {
        name(c, "response.output_text.done");
        appendf(&event, PLACE "\"logprobs\":[],\"text\":\"", c->id);
        fill(&event, c->deltas * c->size);
        append(&event, "\"}", 2);
        tell(c);
        tell_part(c, "response.content_part.done", true);
        tell_item(c, "response.output_item.done", true);
        tell_response(c, "response.completed", true);
    }
    append(&c->out, "0\r\n\r\n", 5);
}

/* --- when it is said --------------------------------------------------------------------------------------------- */

static void rest(struct connection *c)
{
    if (c->phase == TALKING && c->every) arm(c, 0, 0);
    c->phase = IDLE;
    push(c);
    watch(c, EPOLLIN | (pending(c) ? EPOLLOUT : 0));
}

static void send_whole(struct connection *c, const struct text *body)
{
    appendf(&c->out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body->length);
    append(&c->out, body->bytes, body->length);
    rest(c);
}

static void answer_whole(struct connection *c)
{
    static struct text body;
    body.length = 0;
    if (c->chat)
        put_completion(&body, c);
    else
        put_response(&body, c, true);
    send_whole(c, &body);
}

/* What the MCP server says, at once, to a request of the protocol's newest version. */
static void answer_mcp(struct connection *c, const char *asked)
{
    static struct text body;
    const char *id = strstr(asked, "\"id\":");
    body.length = 0;
    appendf(&body, MCP_FRONT, id ? atoi(id + 5) : 0);
    appendf(&body, "%s}}", strstr(asked, "\"tools/call\"")   ? MCP_CALLED
                           : strstr(asked, "\"tools/list\"") ? MCP_LISTED
                                                             : MCP_DISCOVERED);
    send_whole(c, &body);
}

static void talk(struct connection *c, int count)
{
    for (; count > 0 && c->told < c->deltas; count--) {
        tell_delta(c);
        push(c);
        if (c->gone || (pending(c) && !c->every)) break;
    }
    if (c->gone) return;
    if (c->told == c->deltas) {
        tell_end(c);
        rest(c);
    } else
        watch(c, EPOLLIN | (pending(c) || !c->every ? EPOLLOUT : 0));
}

static void start_talking(struct connection *c)
{
    c->phase = TALKING;
    tell_beginning(c);
    talk(c, c->every ? 1 : BURST);
    /* The second delta comes after a part of the interval only: streams that begin together must not beat together. */
    if (c->phase == TALKING && c->every) arm(c, 1 + random() % (c->every * MILLISECOND), c->every * MILLISECOND);
}

static void timer_ready(struct connection *c, uint32_t events)
{
    uint64_t times = 0;
    (void)events;
    if (read(c->timer, &times, sizeof times) < 0) return;
    if (c->phase == TALKING)
        talk(c, times);
    else if (c->phase == WAITING && c->streamed)
        start_talking(c);
    else if (c->phase == WAITING)
        answer_whole(c);
    begin(c);
}

static int wanted(const char *order, const char *what, int otherwise)
{
    const char *found = order ? strstr(order, what) : NULL;
    return found ? atoi(found + strlen(what)) : otherwise;
}

static void answer(struct connection *c, const char *head, const char *body)
{
    if (!strncmp(head, "POST /mcp ", 10)) {
        answer_mcp(c, body);
        return;
    }
    const char *order = strstr(body, "[bench ");
    c->chat = !strncmp(head, "POST", 4) && strstr(head, "/chat/completions ") != NULL;
    c->streamed = strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
    c->deltas = wanted(order, "deltas=", 16);
    c->every = wanted(order, "every=", 0);
    c->first = wanted(order, "first=", 0);
    c->size = wanted(order, "size=", 24);
    c->calling = wanted(order, "call=", 0) && !strstr(body, "\"function_call_output\"");
    if (c->calling) c->deltas = 0;
    c->told = c->sequence = 0;
    c->phase = WAITING;
    snprintf(c->id, sizeof c->id, "%032llx", (unsigned long long)++answers);
    if (c->streamed) tell_head(c);
    push(c);
    if (c->gone) return;
    if (c->first)
        arm(c, c->first * MILLISECOND, 0);
    else if (c->streamed)
        start_talking(c);
    else
        answer_whole(c);
}

/* The next request, once it is there as a whole. */
static void begin(struct connection *c)
{
    while (!c->gone && c->phase == IDLE && c->in.length) {
        char *end = memmem(c->in.bytes, c->in.length, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = end + 4 - c->in.bytes;
        end[3] = 0;
        char *length = strcasestr(c->in.bytes, "content-length:");
        size_t total = head + (length ? strtoul(length + 15, NULL, 10) : 0);
        end[3] = '\n';
        if (c->in.length < total) return;
        char kept = c->in.bytes[total];
        c->in.bytes[total] = 0;
        answer(c, c->in.bytes, c->in.bytes + head);
        c->in.bytes[total] = kept;
        c->in.length -= total;
        memmove(c->in.bytes, c->in.bytes + total, c->in.length + 1);
    }
}

static void socket_ready(struct connection *c, uint32_t events)
{
    if (events & EPOLLOUT) {
        push(c);
        if (c->phase == TALKING && !pending(c) && !c->every)
            talk(c, BURST);
        else
            watch(c, EPOLLIN | (pending(c) ? EPOLLOUT : 0));
    }
    if (c->gone || !(events & ~EPOLLOUT)) return;
    make_room(&c->in, READ);
    ssize_t count = recv(c->fd, c->in.bytes + c->in.length, READ, 0);
    if (count <= 0 && !(count < 0 && errno == EAGAIN)) {
        drop(c);
        return;
    }
    if (count > 0) c->in.length += count;
    c->in.bytes[c->in.length] = 0;
    begin(c);
}

static void take(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("memory");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        c->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        if (c->timer < 0) die("timer");
        c->on_socket = (struct source){socket_ready, c};
        c->on_timer = (struct source){timer_ready, c};
        c->watched = EPOLLIN;
        struct epoll_event on_socket = {.events = EPOLLIN, .data.ptr = &c->on_socket};
        struct epoll_event on_timer = {.events = EPOLLIN, .data.ptr = &c->on_timer};
        epoll_ctl(loop, EPOLL_CTL_ADD, fd, &on_socket);
        epoll_ctl(loop, EPOLL_CTL_ADD, c->timer, &on_timer);
    }
}

static void bury(void)
{
    while (gone) {
        struct connection *c = gone;
        gone = c->next;
        free(c->in.bytes);
        free(c->out.bytes);
        free(c);
    }
}

int main(int count, char **arguments)
{
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = loopback(count > 1 ? atoi(arguments[1]) : 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) die("port");
    loop = epoll_create1(0);
    struct epoll_event on_listener = {.events = EPOLLIN, .data.ptr = NULL}, ready[256];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &on_listener);
    for (;;) {
        int found = epoll_wait(loop, ready, 256, -1);
        for (int i = 0; i < found; i++) {
            struct source *source = ready[i].data.ptr;
            if (!source)
                take(listener);
            else if (!source->connection->gone)
                source->ready(source->connection, ready[i].events);
        }
        bury();
    }
}
