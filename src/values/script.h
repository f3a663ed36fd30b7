/* script.h - the script value. bridge.h has the struct, runnable.h what models share. */
#pragma once

#include "values/runnable.h"

Script *script_new(void); /* one reference, the caller's; fields are filled in before it is shared */

extern RedisModuleType *ScriptType;
int script_type_register(RedisModuleCtx *ctx);
