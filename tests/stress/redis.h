/* redis.h - as much of Redis as the module needs to run commands on models and scripts, in a program of its own.
 *
 * One main thread turns the event loop and calls everything here, as in Redis; the module's other threads call only
 * what modules may call from threads. What a module must never do (unblock a client twice, reply twice or in parts,
 * reply from another thread, use a string that is freed) ends the program. As in Redis, strings count their references
 * without atomics, so that ThreadSanitizer sees who shares one between threads. */
#ifndef STRESS_REDIS_H
#define STRESS_REDIS_H

#include <stddef.h>
#include <stdint.h>

#include "redis/api.h"

/* Ends the program with a message: what must not happen has happened. */
#define FATAL(...) fatal(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) FATAL("not so: %s", #condition);                                                             \
    } while (0)
void fatal(const char *file, int line, const char *format, ...) __attribute__((noreturn, cold, format(printf, 3, 4)));

int64_t now_ns(void);

/* Random numbers: one generator a thread. */
typedef struct Random {
    uint64_t state;
} Random;
uint32_t below(Random *random, uint32_t limit);
int chance(Random *random, int permille);

/* Loads the module with these options. Returns REDISMODULE_OK or _ERR. */
int redis_load(const char **options, int count);

/* Makes every callback that is due: one turn of the event loop. Waits until moment for something to do. */
void redis_turn(int64_t until);

/* While set, nothing may be replicated, as during CLIENT PAUSE. */
void redis_pause(int paused);

/* The value of a key, or NULL. */
void *redis_value(const char *key);
void redis_delete(const char *key);

/* Allocations that are not freed yet. */
long redis_allocations(void);

/* ---- clients ----------------------------------------------------------------------------------------------------- */

typedef struct Token {
    char type; /* as on the wire: + - $ : * and , for doubles, _ for null */
    char *text;
    size_t size;
    long long number; /* of : and * */
} Token;

typedef struct Client Client;
Client *client_new(void);

/* The words of the next command. */
void client_word(Client *client, const char *format, ...) __attribute__((format(printf, 2, 3)));
void client_bytes(Client *client, const void *data, size_t size);

/* Calls the command. flags: of the context, REDISMODULE_CTX_FLAGS_... */
void client_call(Client *client, int flags);
int client_is_blocked(const Client *client);

/* The reply, whole; NULL while the client is blocked. It lasts until the next command. */
const Token *client_reply(const Client *client, int *count);

/* It disconnects, blocked or not, and is freed. */
void client_close(Client *client);

#endif
