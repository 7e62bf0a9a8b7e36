/* A load generator for WebSocket servers on 127.0.0.1: one thread, one result as a line of JSON.
 *
 *   load echo    each connection keeps --depth messages in flight, and sends one for each answer
 *   load open    --rate messages a second over all connections, whether answers come or not; latency counts from
 *                the time at which a message was due, so that a server which stalls cannot slow its own clock
 *   load fanout  one connection publishes, and again when every connection has got the message; the last --frozen
 *                of them have joined, and read nothing from then on
 *   load idle    hold the connections for --seconds
 *
 * Every mode first opens all connections; with --join each sends that message, and has joined when the answer comes.
 * Then "ready" goes to stderr. A message counts if it contains --expect; what else comes is `unexpected`. Percentiles
 * are exact to 1 %, in µs. `busy` is this program's own use of its core while it measured: near 1 the figure shows
 * the generator's limit (in open it spins, and always is). `disturbed` is the share of the time in which it could
 * have run, and another program had its core.
 */
#define _GNU_SOURCE
#include "measure.h"
#include "wire.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#define ROOM (1 << 18)
#define OPENING_AT_ONCE 128 /* below any server's backlog */
#define HIGHEST_CODE 4999

enum phase { OPENING, JOINING, READY, CLOSED };

struct connection {
    struct stream stream;
    enum phase phase;
    bool in_message;   /* between the fragments of one */
    struct bytes message;
    uint16_t code;     /* of the close frame that came */
    uint64_t received; /* messages that count */
    uint64_t *due;     /* echo: when each of those in flight was sent, as a ring */
    unsigned oldest;
};

static struct {
    enum { ECHO, OPEN, FANOUT, IDLE } mode;
    int port;
    unsigned connections, depth, frozen;
    double seconds, warmup, rate, patience;
    const char *path, *header, *message, *join, *expect;
} asked = {.connections = 1, .depth = 1, .seconds = 5, .warmup = 1, .rate = 1000, .patience = 30, .path = "/"};

static struct connection *connections;
static int epoll;
static const unsigned char MASK[4] = {0x37, 0xfa, 0x21, 0x3d}; /* a fixed one: masks guard proxies, here are none */
static unsigned char in[ROOM], *frames, *join_frame; /* `frames`: the message --depth times, to be sent in one write */
static size_t frame_size, join_size, expect_size;

static unsigned joined, failed;
static uint64_t closed, unexpected, codes[HIGHEST_CODE + 1];

/* The measurement. Times in ns. */
static bool measuring;
static uint64_t begin, counted;

/* Fan-out and open loop. */
static uint64_t round_number, round_start, rounds, schedule, first_measured, last_measured;
static unsigned awaited;

/* One connection. */

static void fail(struct connection *c, uint16_t code, const char *why)
{
    if (why && failed++ < 3)
        fprintf(stderr, "a connection failed: %s\n", why);
    if (c->phase == READY) {
        joined--;
        if (asked.mode == FANOUT && awaited && c->received < round_number)
            awaited--;
    }
    closed++;
    codes[code <= HIGHEST_CODE ? code : 1006]++;
    c->phase = CLOSED;
    close(c->stream.fd);
    discard(&c->stream.unread);
    discard(&c->stream.unsent);
    discard(&c->message);
}

static void send_messages(struct connection *c, unsigned count)
{
    if (!c->code) /* after a close frame nothing may follow: RFC 6455 section 5.5.1 */
        send_bytes(&c->stream, c, frames, count * frame_size);
}

static uint64_t due_at(uint64_t index)
{
    return schedule + (uint64_t)(index * (NS / asked.rate));
}

/* A message that counts has come. Returns how many to send for it. */
static unsigned answered(struct connection *c)
{
    uint64_t index = c->received++;
    if (asked.mode == ECHO) {
        if (measuring) {
            counted++;
            record(now - c->due[c->oldest]);
        }
        c->due[c->oldest] = now;
        c->oldest = (c->oldest + 1) % asked.depth;
        return 1;
    }
    if (asked.mode == OPEN) {
        /* Messages go round the connections and answers keep their order: so the number of an answer tells which. */
        index = index * asked.connections + (c - connections);
        if (index >= first_measured && index < last_measured) {
            counted++;
            record(now - due_at(index));
        }
    } else if (asked.mode == FANOUT) {
        counted += measuring;
        if (c->received <= round_number && awaited)
            awaited--;
    }
    return 0;
}

static bool expected(const void *message, size_t size)
{
    return !asked.expect || memmem(message, size, asked.expect, expect_size);
}

/* A data frame. Returns how many messages to send. */
static unsigned take(struct connection *c, const struct frame *frame)
{
    bool whole = frame->fin && !c->in_message, matches;
    c->in_message = !frame->fin;
    if (!whole)
        append(&c->message, frame->payload, frame->size);
    if (!frame->fin)
        return 0;
    matches = whole ? expected(frame->payload, frame->size) : expected(c->message.data, c->message.size);
    discard(&c->message);
    if (c->phase == JOINING) {
        c->phase = READY;
        joined++;
        return 0;
    }
    if (!matches || c->phase != READY) {
        unexpected++;
        return 0;
    }
    return answered(c);
}

static void reply(struct connection *c, unsigned opcode, const struct frame *frame)
{
    unsigned char out[14 + 125];
    send_bytes(&c->stream, c, out, write_frame(out, opcode, frame->payload, frame->size, MASK));
}

/* What RFC 6455 section 5 forbids a server; NULL where all is well. */
static const char *offence(const struct connection *c, const struct frame *frame)
{
    if (frame->masked)
        return "a masked frame came";
    if (frame->reserved)
        return "a reserved bit is set";
    if (frame->opcode >= CLOSE)
        return frame->opcode > PONG                 ? "an unknown control frame came"
               : !frame->fin || frame->size > 125 ? "a control frame is fragmented or too long"
                                                   : NULL;
    if (frame->opcode > BINARY)
        return "an unknown data frame came";
    return (frame->opcode == 0) != c->in_message ? "a fragment is out of place" : NULL;
}

static size_t read_frames(struct connection *c, unsigned char *data, size_t size)
{
    struct frame frame;
    size_t used = 0, length;
    unsigned due = 0;
    while ((length = read_frame(data + used, size - used, &frame))) {
        used += length;
        const char *wrong = offence(c, &frame);
        if (wrong) {
            fail(c, 1002, wrong);
            return size;
        }
        if (frame.opcode == PING)
            reply(c, PONG, &frame);
        else if (frame.opcode == CLOSE) {
            c->code = frame.size >= 2 ? frame.payload[0] << 8 | frame.payload[1] : 1005;
            reply(c, CLOSE, &frame);
        } else if (frame.opcode != PONG)
            due += take(c, &frame);
    }
    for (unsigned burst; due; due -= burst) {
        burst = due < asked.depth ? due : asked.depth;
        send_messages(c, burst);
    }
    return used;
}

static size_t read_handshake(struct connection *c, unsigned char *data, size_t size)
{
    unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = end + 4 - data;
    if (head < 12 || memcmp(data, "HTTP/1.1 101", 12) || !memmem(data, head, ACCEPT, sizeof ACCEPT - 1)) {
        char line[64];
        snprintf(line, sizeof line, "%.*s", (int)strcspn((char *)data, "\r"), (char *)data);
        fail(c, 1006, line);
        return size;
    }
    c->phase = asked.join ? JOINING : READY;
    if (asked.join)
        send_bytes(&c->stream, c, join_frame, join_size);
    else
        joined++;
    return head;
}

static void serve(struct connection *c)
{
    ssize_t size = receive(&c->stream, in, sizeof in);
    if (size < 0) {
        const char *why = c->phase == READY || c->code ? NULL : "it ended before it had joined";
        fail(c, c->code ? c->code : 1006, why);
        return;
    }
    clock_ns();
    size_t used = c->phase == OPENING ? read_handshake(c, in, size) : 0;
    if (c->phase != OPENING && c->phase != CLOSED)
        used += read_frames(c, in + used, size - used);
    if (c->phase != CLOSED && used < (size_t)size)
        append(&c->stream.unread, in + used, size - used);
}

static void turn(int milliseconds)
{
    struct epoll_event events[512];
    int ready = epoll_wait(epoll, events, 512, milliseconds);
    for (int i = 0; i < ready; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->phase != CLOSED && events[i].events & EPOLLOUT)
            send_rest(&c->stream, c);
        if (c->phase != CLOSED && events[i].events & ~EPOLLOUT)
            serve(c);
    }
    clock_ns();
}

static void dial(struct connection *c, const char *request, size_t size)
{
    int one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(asked.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->stream = (struct stream){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .epoll = epoll};
    int narrow = 4096; /* what a frozen one does not read is soon the server's to keep */
    if (c->stream.fd >= 0 && c - connections >= asked.connections - asked.frozen)
        setsockopt(c->stream.fd, SOL_SOCKET, SO_RCVBUF, &narrow, sizeof narrow);
    int refused = c->stream.fd < 0 || connect(c->stream.fd, (struct sockaddr *)&address, sizeof address);
    if (refused && errno != EINPROGRESS) {
        fail(c, 1006, strerror(errno));
        return;
    }
    setsockopt(c->stream.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(&c->stream, c, true);
    send_bytes(&c->stream, c, request, size);
}

static void usage(const char *problem)
{
    fprintf(stderr,
            "%s\nusage: load echo|open|fanout|idle --port P [--path /] [--header TEXT] [--connections N]\n"
            "  [--message TEXT] [--join TEXT] [--expect TEXT] [--seconds S] [--warmup S] [--patience S]\n"
            "  [--depth D (echo)] [--rate R (open)] [--frozen N (fanout)]\n",
            problem);
    exit(2);
}

/* Open all connections; returns the seconds until the last had joined. */
static double open_all(void)
{
    char request[4096];
    size_t size = snprintf(request, sizeof request,
                           "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                           "%s%sSec-WebSocket-Key: " NONCE "\r\nSec-WebSocket-Version: 13\r\n\r\n",
                           asked.path, asked.port, asked.header ? asked.header : "", asked.header ? "\r\n" : "");
    if (size >= sizeof request)
        usage("the path or the header is too long");
    uint64_t start = clock_ns(), until = start + asked.patience * NS;
    unsigned dialled = 0;
    while (now < until && joined + closed < asked.connections) {
        while (dialled < asked.connections && dialled < joined + closed + OPENING_AT_ONCE)
            dial(&connections[dialled++], request, size);
        turn(10);
    }
    return (now - start) / 1e9;
}

/* The modes. Each returns when the time is over. */

static void start_measuring(void)
{
    measuring = true;
    begin = now;
}

static void run_echo(uint64_t warm, uint64_t end)
{
    for (unsigned i = 0; i < asked.connections; i++) {
        struct connection *c = &connections[i];
        c->due = checked(malloc(asked.depth * sizeof *c->due));
        for (unsigned d = 0; d < asked.depth; d++)
            c->due[d] = now;
        send_messages(c, asked.depth);
    }
    while (now < end && joined) {
        turn(10);
        if (!measuring && now >= warm)
            start_measuring();
    }
}

/* Returns how many messages that were due while it measured have no answer; their age counts as their latency. */
static uint64_t run_open(uint64_t warm, uint64_t end)
{
    uint64_t sent = 0, missing = 0;
    schedule = now;
    first_measured = (uint64_t)((warm - schedule) / (NS / asked.rate)) + 1;
    last_measured = (uint64_t)((end - schedule) / (NS / asked.rate));
    while (sent < last_measured && joined) {
        for (; sent < last_measured && due_at(sent) <= now; sent++) {
            struct connection *c = &connections[sent % asked.connections];
            if (c->phase == READY)
                send_messages(c, 1);
        }
        turn(0);
        if (!measuring && now >= warm)
            start_measuring();
    }
    uint64_t in_time = counted;
    for (uint64_t until = now + NS; now < until && counted < last_measured - first_measured && joined;)
        turn(10);
    for (uint64_t i = first_measured; i < last_measured; i++)
        if (connections[i % asked.connections].received <= i / asked.connections) {
            missing++;
            record(now - due_at(i));
        }
    counted = in_time;
    return missing;
}

static void run_fanout(uint64_t warm, uint64_t end)
{
    for (unsigned i = asked.connections - asked.frozen; i < asked.connections; i++)
        epoll_ctl(epoll, EPOLL_CTL_DEL, connections[i].stream.fd, NULL);
    joined -= asked.frozen;
    while (now < end && connections[0].phase == READY) {
        if (!measuring && now >= warm)
            start_measuring();
        round_number++;
        awaited = joined;
        round_start = now;
        send_messages(&connections[0], 1);
        bool measured = measuring;
        while (awaited && now < end)
            turn(10);
        if (measured && !awaited) {
            rounds++;
            record(now - round_start);
        }
    }
}

static void run_idle(uint64_t end)
{
    start_measuring();
    while (now < end && joined)
        turn(100);
}

struct outcome {
    double connect_seconds, elapsed, busy, disturbed;
    unsigned connected;
    uint64_t missing;
};

static void report(struct outcome o)
{
    static const char *const names[] = {"echo", "open", "fanout", "idle"};
    printf("{\"mode\":\"%s\",\"connections\":%u,\"connected\":%u,\"connect_seconds\":%.3f,\"seconds\":%.3f,"
           "\"count\":%lu,\"rate\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f,\"busy\":%.2f,"
           "\"disturbed\":%.3f,\"rounds\":%lu,\"missing\":%lu,\"unexpected\":%lu,\"closed\":%lu,\"codes\":{",
           names[asked.mode], asked.connections, o.connected, o.connect_seconds, o.elapsed, counted,
           o.elapsed > 0 ? counted / o.elapsed : 0, percentile(.5), percentile(.9), percentile(.99), worst / 1e3,
           o.busy, o.disturbed, rounds, o.missing, unexpected, closed);
    const char *comma = "";
    for (unsigned code = 0; code <= HIGHEST_CODE; code++)
        if (codes[code]) {
            printf("%s\"%u\":%lu", comma, code, codes[code]);
            comma = ",";
        }
    puts("}}");
}

static void read_options(int argc, char **argv)
{
    static const char *const modes[] = {"echo", "open", "fanout", "idle"};
    static const struct option options[] = {
        {"port", 1, 0, 'p'},    {"path", 1, 0, 'u'},    {"connections", 1, 0, 'c'}, {"depth", 1, 0, 'd'},
        {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'w'},  {"rate", 1, 0, 'r'},        {"message", 1, 0, 'm'},
        {"join", 1, 0, 'j'},    {"expect", 1, 0, 'e'},  {"patience", 1, 0, 't'},    {"header", 1, 0, 'h'},
        {"frozen", 1, 0, 'f'},
        {0},
    };
    int mode = 0, option;
    while (argc > 1 && mode < 4 && strcmp(argv[1], modes[mode]))
        mode++;
    if (argc < 2 || mode == 4)
        usage("the first word is the mode");
    asked.mode = mode;
    optind = 2;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'p': asked.port = atoi(optarg); break;
        case 'u': asked.path = optarg; break;
        case 'c': asked.connections = atoi(optarg); break;
        case 'd': asked.depth = atoi(optarg); break;
        case 's': asked.seconds = atof(optarg); break;
        case 'w': asked.warmup = atof(optarg); break;
        case 'r': asked.rate = atof(optarg); break;
        case 'h': asked.header = optarg; break;
        case 'm': asked.message = optarg; break;
        case 'j': asked.join = optarg; break;
        case 'f': asked.frozen = atoi(optarg); break;
        case 'e': asked.expect = optarg; break;
        case 't': asked.patience = atof(optarg); break;
        default: usage("an option is unknown");
        }
    if (asked.port < 1 || asked.port > 65535 || asked.connections < 1 || asked.connections > 1000000 ||
        asked.depth < 1 || asked.depth > 10000 || asked.rate <= 0 || asked.seconds <= 0 || asked.warmup < 0)
        usage("a number is out of its range");
    if (asked.frozen >= asked.connections || (asked.frozen && asked.mode != FANOUT))
        usage("--frozen is for fanout, and leaves one that reads");
    if (!asked.message && asked.mode != IDLE)
        usage("--message is needed");
}

static void prepare_frames(void)
{
    size_t size = asked.message ? strlen(asked.message) : 0;
    frames = checked(malloc((size + 14) * asked.depth));
    for (unsigned i = 0; asked.message && i < asked.depth; i++)
        frame_size = write_frame(frames + i * frame_size, TEXT, asked.message, size, MASK);
    if (asked.join) {
        join_frame = checked(malloc(strlen(asked.join) + 14));
        join_size = write_frame(join_frame, TEXT, asked.join, strlen(asked.join), MASK);
    }
    expect_size = asked.expect ? strlen(asked.expect) : 0;
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prepare_frames();
    signal(SIGPIPE, SIG_IGN);
    if (raise_file_limit() < asked.connections + 16)
        usage("the limit of open files does not allow so many connections");
    alarm(asked.patience + asked.warmup + asked.seconds + 20); /* whatever happens, this ends */
    epoll = epoll_create1(0);
    connections = checked(calloc(asked.connections, sizeof *connections));
    struct outcome outcome = {.connect_seconds = open_all(), .connected = joined};
    if (joined < asked.connections) {
        report(outcome);
        return 1;
    }
    fputs("ready\n", stderr);
    uint64_t started = clock_ns(), warm = now + (asked.mode == IDLE ? 0 : asked.warmup) * NS;
    uint64_t end = warm + asked.seconds * NS;
    double cpu = cpu_seconds(), queued = queued_seconds();
    switch (asked.mode) {
    case ECHO: run_echo(warm, end); break;
    case OPEN: outcome.missing = run_open(warm, end); break;
    case FANOUT: run_fanout(warm, end); break;
    case IDLE: run_idle(end); break;
    }
    uint64_t over = asked.mode == OPEN && now > end ? end : now; /* then it waited for late answers */
    outcome.elapsed = measuring ? (over - begin) / 1e9 : 0;
    outcome.busy = (cpu_seconds() - cpu) / ((now - started) / 1e9);
    outcome.disturbed = (queued_seconds() - queued) / ((now - started) / 1e9);
    report(outcome);
    return 0;
}
