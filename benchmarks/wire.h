/* What the load generator and the floor share: a non-blocking socket with what waits on it, and RFC 6455 frames. */
#ifndef WIRE_H
#define WIRE_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

/* The nonce of RFC 6455 section 1.3, and the answer that it asks for: neither side needs SHA-1. */
#define NONCE "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

struct bytes {
    unsigned char *data;
    size_t size, room;
};

struct stream {
    int fd, epoll;
    struct bytes unread, unsent; /* both empty, without memory, while the peer keeps up */
    bool waiting;                /* for EPOLLOUT */
};

struct frame {
    bool fin, masked;
    unsigned reserved, opcode;
    unsigned char *payload;
    size_t size;
    unsigned char mask[4];
};

static void *checked(void *memory)
{
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(3);
    }
    return memory;
}

static void append(struct bytes *bytes, const void *data, size_t size)
{
    if (bytes->size + size > bytes->room) {
        bytes->room = 2 * (bytes->size + size);
        bytes->data = checked(realloc(bytes->data, bytes->room));
    }
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static void discard(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

static void watch(struct stream *stream, void *owner, bool first)
{
    struct epoll_event event = {.events = EPOLLIN | (stream->waiting ? EPOLLOUT : 0), .data.ptr = owner};
    epoll_ctl(stream->epoll, first ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, stream->fd, &event);
}

/* Write what the socket takes; the rest waits. An error shows at the next read. */
static void send_bytes(struct stream *stream, void *owner, const void *data, size_t size)
{
    ssize_t written = 0;
    if (stream->unsent.size == 0) {
        written = write(stream->fd, data, size);
        if (written < 0)
            written = 0;
    }
    if ((size_t)written == size)
        return;
    append(&stream->unsent, (const char *)data + written, size - written);
    if (!stream->waiting) {
        stream->waiting = true;
        watch(stream, owner, false);
    }
}

/* After EPOLLOUT. */
static void send_rest(struct stream *stream, void *owner)
{
    struct bytes *unsent = &stream->unsent;
    ssize_t written = write(stream->fd, unsent->data, unsent->size);
    if (written > 0) {
        unsent->size -= written;
        memmove(unsent->data, unsent->data + written, unsent->size);
    }
    if (unsent->size == 0 && stream->waiting) {
        discard(unsent);
        stream->waiting = false;
        watch(stream, owner, false);
    }
}

/* What was left of earlier reads and what has come since, in `buffer`; 0 where nothing came, -1 at the end. */
static ssize_t receive(struct stream *stream, unsigned char *buffer, size_t room)
{
    size_t kept = stream->unread.size;
    if (kept >= room)
        return -1;
    ssize_t got = read(stream->fd, buffer + kept, room - kept);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        return -1;
    if (kept) {
        memcpy(buffer, stream->unread.data, kept);
        discard(&stream->unread);
    }
    return (ssize_t)kept + got;
}

/* The length of the frame at `data` with its header; 0 where it is not there as a whole. */
static size_t read_frame(unsigned char *data, size_t size, struct frame *frame)
{
    if (size < 2)
        return 0;
    size_t length = data[1] & 0x7f, head = 2;
    size_t more = length == 126 ? 2 : length == 127 ? 8 : 0;
    frame->masked = data[1] & 0x80;
    if (size < head + more + (frame->masked ? 4 : 0))
        return 0;
    if (more) {
        length = 0;
        for (size_t i = 0; i < more; i++)
            length = length << 8 | data[head + i];
        head += more;
    }
    if (frame->masked) {
        memcpy(frame->mask, data + head, 4);
        head += 4;
    }
    if (size - head < length)
        return 0;
    frame->fin = data[0] & 0x80;
    frame->reserved = data[0] >> 4 & 7;
    frame->opcode = data[0] & 15;
    frame->payload = data + head;
    frame->size = length;
    return head + length;
}

static void apply_mask(unsigned char *payload, size_t size, const unsigned char mask[4])
{
    for (size_t i = 0; i < size; i++)
        payload[i] ^= mask[i & 3];
}

/* A whole message in one frame, masked where `mask` is given; `out` has room for 14 bytes more than the payload. */
static size_t write_frame(unsigned char *out, unsigned opcode, const void *payload, size_t size,
                          const unsigned char *mask)
{
    size_t head = 2, more = size < 126 ? 0 : size < 65536 ? 2 : 8;
    out[0] = 0x80 | opcode;
    out[1] = (mask ? 0x80 : 0) | (more == 0 ? size : more == 2 ? 126 : 127);
    for (size_t i = 0; i < more; i++)
        out[head + i] = (uint64_t)size >> 8 * (more - 1 - i);
    head += more;
    if (mask) {
        memcpy(out + head, mask, 4);
        head += 4;
    }
    memcpy(out + head, payload, size);
    if (mask)
        apply_mask(out + head, size, mask);
    return head + size;
}

/* Allow as many open files as the system lets us; returns how many those are. */
static uint64_t raise_file_limit(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
}

#endif
