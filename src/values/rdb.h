/* rdb.h - reads and writes the parts that the saved layouts of the three types share.
 *
 * Loading runs on the main thread, saving also in the BGSAVE child: plain memory only, no locks. Saved data is hostile
 * until checked: each helper returns an error instead of trusting a length or a count. */
#pragma once

#include "bridge.h"
#include "redis/api.h"

#define RDB_ENCODING_VERSION 4

/* Bytes that MEMORY USAGE leaves out for module values: Redis's object and its link to the module. */
#define KEY_OVERHEAD 32

/* Logs which key cannot be loaded and why. Returns NULL, as rdb_load must. */
void *rdb_corrupt(RedisModuleIO *io, const char *type, const char *reason);

/* A C string saved with its NUL; the caller frees it. NULL: it is no C string. */
char *rdb_load_text(RedisModuleIO *io);
void rdb_save_text(RedisModuleIO *io, const char *text);

/* Bytes saved without a NUL. A NUL follows the copy that is returned. NULL on an I/O error. */
char *rdb_load_bytes(RedisModuleIO *io, uint64_t *size);

/* A counted list of C strings. Returns -1 when it is broken; names is then empty. */
int rdb_load_names(RedisModuleIO *io, Names *names);
void rdb_save_names(RedisModuleIO *io, const Names *names);
