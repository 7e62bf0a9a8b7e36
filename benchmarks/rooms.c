/* Publications to many rooms on several servers on 127.0.0.1, each followed until its last member has it: one thread,
 * one result as a line of JSON.
 *
 *   rooms --port P --at A --at B --rooms R --each C --publishers N --depth D   as many in flight for each publisher
 *   rooms … --rate X                                                           so many a second, whatever comes back
 *
 * The publishers are connected to --port, and in no room. At each --at are C members, who share the rooms out: each
 * is in R / C of them, or each room has C / R there. In --join stands ROOM, and in --message also NUMBER, for ten digits;
 * a delivery has these behind --mark. An open loop counts from the time at which a publication was due.
 *
 * `cpu` is what each --pid has used while it measured, in seconds. The other figures are as in load.c.
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
#define OPENING_AT_ONCE 64
#define MOST 16 /* servers, or processes */
#define IN_FLIGHT (1 << 20)
#define DIGITS 10

struct connection {
    struct stream stream;
    int port;
    bool upgraded, closed;
    unsigned first, step; /* its rooms; a publisher has none, and its step is 0 */
    unsigned joins;       /* that were not answered yet */
};

struct publication {
    uint64_t start;
    unsigned left, publisher;
};

static struct {
    int port, at[MOST], pids[MOST];
    unsigned ats, watched, rooms, each, publishers, depth;
    double seconds, warmup, rate, patience;
    const char *join, *message, *mark;
} asked = {.rooms = 1, .each = 1, .publishers = 1, .depth = 1, .seconds = 5, .warmup = 1, .patience = 60,
           .mark = "\"text\":\""};

static struct connection *connections;
static struct publication *publications;
static unsigned total, ready, dialled, members;
static int epoll;
static const unsigned char MASK[4] = {0x37, 0xfa, 0x21, 0x3d};
static unsigned char in[ROOM];

static bool measuring;
static uint64_t begin, numbers, done, counted, unexpected, closed, first_measured, last_measured, schedule;

static void fail(struct connection *c, const char *why)
{
    if (closed++ < 3)
        fprintf(stderr, "a connection failed: %s\n", why);
    c->closed = true;
    close(c->stream.fd);
    discard(&c->stream.unread);
    discard(&c->stream.unsent);
}

/* A frame with a template in it, in which the words stand for numbers. Returns its size. */
static size_t fill(unsigned char *out, const char *template, unsigned room, uint64_t number)
{
    char text[4096];
    size_t size = 0;
    while (*template && size < sizeof text - 32) {
        if (!strncmp(template, "ROOM", 4)) {
            size += sprintf(text + size, "r%u", room);
            template += 4;
        } else if (!strncmp(template, "NUMBER", 6)) {
            size += sprintf(text + size, "%0*lu", DIGITS, number);
            template += 6;
        } else
            text[size++] = *template++;
    }
    return write_frame(out, TEXT, text, size, MASK);
}

static void publish(unsigned publisher, uint64_t start)
{
    unsigned char frame[4200];
    uint64_t number = numbers++;
    struct connection *c = &connections[publisher];
    publications[number % IN_FLIGHT] = (struct publication){start, members, publisher};
    if (!c->closed)
        send_bytes(&c->stream, c, frame, fill(frame, asked.message, number % asked.rooms, number));
}

static void delivered(uint64_t number)
{
    struct publication *told = &publications[number % IN_FLIGHT];
    if (number >= numbers || numbers - number > IN_FLIGHT || !told->left) {
        unexpected++;
        return;
    }
    if (--told->left)
        return;
    done++;
    if (asked.rate ? number >= first_measured && number < last_measured : measuring) {
        counted++;
        record(now - told->start);
    }
    if (!asked.rate)
        publish(told->publisher, now);
}

static void take(struct connection *c, const struct frame *frame)
{
    if (c->joins) {
        if (!--c->joins)
            ready++;
        return;
    }
    unsigned char *mark = memmem(frame->payload, frame->size, asked.mark, strlen(asked.mark));
    size_t rest = mark ? frame->payload + frame->size - mark - strlen(asked.mark) : 0;
    uint64_t number = 0;
    if (rest < DIGITS) {
        unexpected++;
        return;
    }
    for (unsigned i = 0; i < DIGITS; i++)
        number = 10 * number + (mark[strlen(asked.mark) + i] - '0');
    delivered(number);
}

static size_t read_frames(struct connection *c, unsigned char *data, size_t size)
{
    struct frame frame;
    size_t used = 0, length;
    while ((length = read_frame(data + used, size - used, &frame))) {
        used += length;
        if (frame.opcode == PING) {
            unsigned char out[14 + 125];
            send_bytes(&c->stream, c, out, write_frame(out, PONG, frame.payload, frame.size, MASK));
        } else if (frame.opcode == TEXT && frame.fin)
            take(c, &frame);
        else if (frame.opcode != PONG) {
            fail(c, frame.opcode == CLOSE ? "the server closed it" : "a frame came that was not expected");
            return size;
        }
    }
    return used;
}

static void join(struct connection *c)
{
    unsigned char frame[4200];
    for (unsigned room = c->first; c->step && room < asked.rooms; room += c->step) {
        c->joins++;
        send_bytes(&c->stream, c, frame, fill(frame, asked.join, room, 0));
    }
    ready += !c->joins;
}

static size_t read_handshake(struct connection *c, unsigned char *data, size_t size)
{
    unsigned char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    size_t head = end + 4 - data;
    if (head < 12 || memcmp(data, "HTTP/1.1 101", 12)) {
        fail(c, "it was refused");
        return size;
    }
    c->upgraded = true;
    join(c);
    return head;
}

static void serve(struct connection *c)
{
    ssize_t size = receive(&c->stream, in, sizeof in);
    if (size < 0) {
        fail(c, "it ended");
        return;
    }
    clock_ns();
    size_t used = c->upgraded ? 0 : read_handshake(c, in, size);
    if (c->upgraded && !c->closed)
        used += read_frames(c, in + used, size - used);
    if (!c->closed && used < (size_t)size)
        append(&c->stream.unread, in + used, size - used);
}

static void turn(int milliseconds)
{
    struct epoll_event events[512];
    int some = epoll_wait(epoll, events, 512, milliseconds);
    for (int i = 0; i < some; i++) {
        struct connection *c = events[i].data.ptr;
        if (!c->closed && events[i].events & EPOLLOUT)
            send_rest(&c->stream, c);
        if (!c->closed && events[i].events & ~EPOLLOUT)
            serve(c);
    }
    clock_ns();
}

static void dial(struct connection *c)
{
    int one = 1;
    char request[512];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->stream = (struct stream){.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .epoll = epoll};
    int refused = c->stream.fd < 0 || connect(c->stream.fd, (struct sockaddr *)&address, sizeof address);
    if (refused && errno != EINPROGRESS) {
        fail(c, strerror(errno));
        return;
    }
    setsockopt(c->stream.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(&c->stream, c, true);
    size_t size = sprintf(request,
                          "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: " NONCE "\r\nSec-WebSocket-Version: 13\r\n\r\n",
                          c->port);
    send_bytes(&c->stream, c, request, size);
}

static void open_all(void)
{
    total = asked.publishers + asked.ats * asked.each;
    connections = checked(calloc(total, sizeof *connections));
    publications = checked(calloc(IN_FLIGHT, sizeof *publications));
    for (unsigned i = 0; i < total; i++) {
        unsigned member = i - asked.publishers;
        if (i < asked.publishers)
            connections[i].port = asked.port;
        else {
            connections[i].port = asked.at[member / asked.each];
            connections[i].first = member % asked.each % asked.rooms;
            connections[i].step = asked.each < asked.rooms ? asked.each : asked.rooms;
        }
    }
    for (uint64_t until = clock_ns() + asked.patience * NS; now < until && ready + closed < total;) {
        while (dialled < total && dialled < ready + closed + OPENING_AT_ONCE)
            dial(&connections[dialled++]);
        turn(10);
    }
}

/* Of a process, with all its threads. */
static double cpu_of(int pid)
{
    char name[64], line[1024] = "", *fields;
    unsigned long user = 0, system = 0;
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    if (fgets(line, sizeof line, file) && (fields = strrchr(line, ')')))
        sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    fclose(file);
    return (double)(user + system) / sysconf(_SC_CLK_TCK);
}

static double cpu[MOST];

static void watch_cpu(int sign)
{
    for (unsigned i = 0; i < asked.watched; i++)
        cpu[i] += sign * cpu_of(asked.pids[i]);
}

static uint64_t due_at(uint64_t number)
{
    return schedule + (uint64_t)(number * (NS / asked.rate));
}

static void run(uint64_t warm, uint64_t end)
{
    schedule = now;
    if (asked.rate) {
        first_measured = (uint64_t)((warm - schedule) / (NS / asked.rate));
        last_measured = (uint64_t)((end - schedule) / (NS / asked.rate));
    }
    for (unsigned i = 0; !asked.rate && i < asked.publishers * asked.depth; i++)
        publish(i % asked.publishers, now);
    while (now < end && !closed) {
        for (; asked.rate && numbers < last_measured && due_at(numbers) <= now;)
            publish(numbers % asked.publishers, due_at(numbers));
        uint64_t next = asked.rate ? due_at(numbers) : now + NS;
        turn(next > now + NS / 1000 ? 1 : 0);
        if (!measuring && now >= warm) {
            measuring = true;
            begin = now;
            watch_cpu(-1);
        }
    }
    watch_cpu(1);
}

static uint64_t wait_for_late(void)
{
    for (uint64_t until = now + NS; asked.rate && now < until && done < numbers && !closed;)
        turn(10);
    return asked.rate ? last_measured - first_measured - counted : 0;
}

static void usage(const char *problem)
{
    fprintf(stderr, "%s; the head of rooms.c says what is needed\n", problem);
    exit(2);
}

static void read_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, 0, 'p'},    {"at", 1, 0, 'a'},     {"pid", 1, 0, 'i'},    {"rooms", 1, 0, 'o'},
        {"each", 1, 0, 'e'},    {"publishers", 1, 0, 'n'}, {"depth", 1, 0, 'd'}, {"rate", 1, 0, 'r'},
        {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'w'}, {"join", 1, 0, 'j'},   {"message", 1, 0, 'm'},
        {"mark", 1, 0, 'k'},    {0},
    };
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 'p': asked.port = atoi(optarg); break;
        case 'a': asked.at[asked.ats++ % MOST] = atoi(optarg); break;
        case 'i': asked.pids[asked.watched++ % MOST] = atoi(optarg); break;
        case 'o': asked.rooms = atoi(optarg); break;
        case 'e': asked.each = atoi(optarg); break;
        case 'n': asked.publishers = atoi(optarg); break;
        case 'd': asked.depth = atoi(optarg); break;
        case 'r': asked.rate = atof(optarg); break;
        case 's': asked.seconds = atof(optarg); break;
        case 'w': asked.warmup = atof(optarg); break;
        case 'j': asked.join = optarg; break;
        case 'm': asked.message = optarg; break;
        case 'k': asked.mark = optarg; break;
        default: usage("an option is unknown");
        }
    if (!asked.port || !asked.ats || !asked.join || !asked.message)
        usage("--port, --at, --join and --message are needed");
    if (asked.ats > MOST || asked.watched > MOST || !asked.rooms || !asked.each || !asked.publishers || !asked.depth ||
        asked.publishers * asked.depth > IN_FLIGHT / 2 || asked.seconds <= 0 || strlen(asked.message) > 3000 ||
        strlen(asked.join) > 3000)
        usage("a number is out of its range, or a message too long");
    if (asked.rooms % asked.each && asked.each % asked.rooms)
        usage("--rooms and --each: one has to be a multiple of the other");
    members = asked.ats * (asked.each > asked.rooms ? asked.each / asked.rooms : 1);
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    alarm(asked.patience + asked.warmup + asked.seconds + 20);
    epoll = epoll_create1(0);
    open_all();
    if (ready < total) {
        fprintf(stderr, "%u of %u connections have joined\n", ready, total);
        return 1;
    }
    uint64_t started = clock_ns(), warm = now + asked.warmup * NS, end = warm + asked.seconds * NS;
    double own = cpu_seconds(), queued = queued_seconds();
    run(warm, end);
    double elapsed = (now - begin) / 1e9, passed = (now - started) / 1e9;
    own = cpu_seconds() - own;
    queued = queued_seconds() - queued;
    uint64_t missing = wait_for_late();
    printf("{\"members\":%u,\"seconds\":%.3f,\"count\":%lu,\"rate\":%.1f,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f,"
           "\"busy\":%.3f,\"disturbed\":%.3f,\"missing\":%lu,\"unexpected\":%lu,\"closed\":%lu,\"cpu\":[",
           members, elapsed, counted, counted / elapsed, percentile(.5), percentile(.99), worst / 1e3, own / passed,
           queued / passed, missing, unexpected, closed);
    for (unsigned i = 0; i < asked.watched; i++)
        printf("%s%.3f", i ? "," : "", cpu[i]);
    puts("]}");
    return closed != 0;
}
