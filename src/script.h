/* script.h - the script value: its definition. Main thread, the BGSAVE child, and free on any thread. */
#ifndef SCRIPT_H
#define SCRIPT_H

#include "bridge.h"
#include "redis_api.h"

typedef struct Script {
    char *device;
    char *tag;
    uint64_t tag_size;
    char *source;
    Names entry_points; /* none: stored the old way, any function may be called */
    int32_t refs;       /* atomic */
} Script;

extern RedisModuleType *ScriptType;
int script_type_register(RedisModuleCtx *ctx);

#endif
