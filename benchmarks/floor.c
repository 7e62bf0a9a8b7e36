/* The floor: about the least that a server on one core can do, to compare others with.
 *
 * It echoes every message, and sends one that contains "pub", in quotes, to every connection. There is no JSON, no
 * room, no check of anything. The answers to all that came in one read leave in one write.
 *
 * Usage: floor PORT
 */
#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>

#define ROOM (1 << 18)

struct client {
    struct stream stream;
    bool open; /* the handshake is done */
    size_t index;
};

static struct client **clients;
static size_t count, room;
static unsigned char in[ROOM], out[ROOM + ROOM / 2], published[ROOM];
static const char PUBLISH[] = "\"pub\"";
static const char SWITCH[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                             "Connection: Upgrade\r\nSec-WebSocket-Accept: " ACCEPT "\r\n\r\n";

static int listen_on(int port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

static void welcome(int listener, int epoll)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct client *client = checked(calloc(1, sizeof *client));
        client->stream = (struct stream){.fd = fd, .epoll = epoll};
        if (count == room)
            clients = checked(realloc(clients, (room = room ? 2 * room : 1024) * sizeof *clients));
        client->index = count;
        clients[count++] = client;
        watch(&client->stream, client, true);
    }
}

static void forget(struct client *client)
{
    clients[client->index] = clients[--count];
    clients[client->index]->index = client->index;
    close(client->stream.fd);
    discard(&client->stream.unread);
    discard(&client->stream.unsent);
    free(client);
}

static void publish(const struct frame *frame)
{
    size_t size = write_frame(published, frame->opcode, frame->payload, frame->size, NULL);
    for (size_t i = 0; i < count; i++)
        if (clients[i]->open)
            send_bytes(&clients[i]->stream, clients[i], published, size);
}

/* Answer whole frames; returns how many bytes those were. Fragments are echoed as what they are. */
static size_t answer(struct client *client, unsigned char *data, size_t size)
{
    struct frame frame;
    size_t used = 0, length, answered = 0;
    while ((length = read_frame(data + used, size - used, &frame))) {
        used += length;
        apply_mask(frame.payload, frame.size, frame.mask);
        if (frame.opcode == TEXT && memmem(frame.payload, frame.size, PUBLISH, sizeof PUBLISH - 1))
            publish(&frame);
        else if (frame.opcode != PONG) {
            size_t at = answered;
            unsigned opcode = frame.opcode == PING ? PONG : frame.opcode;
            answered += write_frame(out + at, opcode, frame.payload, frame.size, NULL);
            if (!frame.fin)
                out[at] &= 0x7f;
        }
    }
    if (answered)
        send_bytes(&client->stream, client, out, answered);
    return used;
}

static void serve(struct client *client)
{
    ssize_t size = receive(&client->stream, in, sizeof in);
    if (size < 0) {
        forget(client);
        return;
    }
    size_t used = 0;
    if (!client->open) {
        unsigned char *end = memmem(in, size, "\r\n\r\n", 4);
        if (end) {
            used = end + 4 - in;
            client->open = true;
            send_bytes(&client->stream, client, SWITCH, sizeof SWITCH - 1);
        }
    }
    if (client->open)
        used += answer(client, in + used, size - used);
    if (used < (size_t)size)
        append(&client->stream.unread, in + used, size - used);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fputs("usage: floor PORT\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    int epoll = epoll_create1(0), listener = listen_on(atoi(argv[1]));
    struct epoll_event events[512], accepting = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &accepting);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (!client)
                welcome(listener, epoll);
            else {
                if (events[i].events & EPOLLOUT)
                    send_rest(&client->stream, client);
                if (events[i].events & ~EPOLLOUT)
                    serve(client);
            }
        }
    }
}
