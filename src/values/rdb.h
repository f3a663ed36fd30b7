/* rdb.h - reads and writes the parts that the saved layouts share.
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

/* A string of Redis. NULL on an I/O error. */
RedisModuleString *rdb_load_string(RedisModuleIO *io);
void rdb_save_string(RedisModuleIO *io, const RedisModuleString *string);

/* Has the server save and load data that belong to no key: they are those of a type that no key has, before the keys.
 * save may write nothing, if that is free: then the file has no such data, and other servers load it. */
int rdb_register_beside_keys(RedisModuleCtx *ctx, const char *type, int version,
                             int (*load)(RedisModuleIO *io, int encver, int when),
                             void (*save)(RedisModuleIO *io, int when));
int rdb_beside_keys_is_free(void); /* from Redis 7.2 on */
