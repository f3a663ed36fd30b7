/* busy.c - as much work as inference is, but done by another process than the server: what bench/beside.py compares
 * inference with.
 *
 * As with a server that runs models, clients send requests, one worker takes each in turn and computes for BURN-US, and
 * the result is stored. Here the worker is a thread of this process and computes nothing, and all that the server does
 * is one SET for each.
 *
 * The worker thread gets connections from one pipe and hands them on through another; the main thread owns the
 * connections and one epoll. It goes on until it is killed. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define PROGRAM "busy"
#include "client.h"

#define MOST_CONNECTIONS 1000

static const char set[] = "*3\r\n$3\r\nSET\r\n$5\r\nplain\r\n$3\r\nxxx\r\n", ok[] = "+OK\r\n";
static int to_worker[2], from_worker[2];
static double burn_ns;

static double cpu_ns(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (double)used.tv_sec * 1e9 + (double)used.tv_nsec;
}

/* What waiting and handing on take is part of what is burnt, as it is of what a worker of the server takes. */
static void *work(void *unused) {
    (void)unused;
    uint16_t waiting[256];
    double until = cpu_ns();
    for (;;) {
        ssize_t n = read(to_worker[0], waiting, sizeof(waiting));
        if (n <= 0) return NULL;
        for (size_t i = 0; i < (size_t)n / sizeof(*waiting); i++) {
            until += burn_ns;
            while (cpu_ns() < until) continue;
            if (write(from_worker[1], &waiting[i], sizeof(*waiting)) < 0) die("pipe: %s", strerror(errno));
        }
    }
}

static void hand_over(uint16_t connection) {
    if (write(to_worker[1], &connection, sizeof(connection)) < 0) die("pipe: %s", strerror(errno));
}

/* Whether with what has come the reply is there, however it is cut. */
static bool receive(int fd, size_t *missing) {
    char reply[sizeof(ok)];
    ssize_t n = recv(fd, reply, *missing, 0);
    if (n <= 0) die("the server closed the connection");
    if (memcmp(reply, ok + sizeof(ok) - 1 - *missing, (size_t)n)) die("not +OK: %.*s", (int)n, reply);
    *missing -= (size_t)n;
    return !*missing;
}

int main(int argc, char **argv) {
    if (argc != 4) die("usage: busy PORT CONNECTIONS BURN-US");
    unsigned port = (unsigned)atoi(argv[1]), connections = (unsigned)atoi(argv[2]);
    burn_ns = atof(argv[3]) * 1e3;
    if (!connections || connections > MOST_CONNECTIONS) die("connections: 1 to %d", MOST_CONNECTIONS);

    static int fds[MOST_CONNECTIONS];
    static size_t missing[MOST_CONNECTIONS];
    int epoll = epoll_create1(0);
    if (pipe(to_worker) < 0 || pipe(from_worker) < 0) die("pipe: %s", strerror(errno));
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = MOST_CONNECTIONS};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, from_worker[0], &event) < 0) die("epoll: %s", strerror(errno));
    for (unsigned i = 0; i < connections; i++) {
        event.data.u32 = i;
        fds[i] = connect_server(port);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0) die("epoll: %s", strerror(errno));
        hand_over((uint16_t)i);
    }
    pthread_t worker;
    if (pthread_create(&worker, NULL, work, NULL)) die("no thread");
    fputs("started\n", stderr);

    for (;;) {
        struct epoll_event events[256];
        uint16_t ready[256];
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            unsigned connection = events[i].data.u32;
            if (connection < connections) {
                if (receive(fds[connection], &missing[connection])) hand_over((uint16_t)connection);
                continue;
            }
            ssize_t n = read(from_worker[0], ready, sizeof(ready));
            for (ssize_t k = 0; k < n / (ssize_t)sizeof(*ready); k++) {
                missing[ready[k]] = sizeof(ok) - 1;
                if (send(fds[ready[k]], set, sizeof(set) - 1, MSG_NOSIGNAL) != (ssize_t)sizeof(set) - 1)
                    die("send: %s", strerror(errno));
            }
        }
    }
}
