/* script.h - the script value. bridge.h has the struct, runnable.h what models share. */
#ifndef VALUES_SCRIPT_H
#define VALUES_SCRIPT_H

#include "bridge.h"
#include "redis/api.h"
#include "values/runnable.h"

Script *script_new(void); /* one reference, the caller's; fields are filled in before it is shared */

extern RedisModuleType *ScriptType;
int script_type_register(RedisModuleCtx *ctx);

#endif
