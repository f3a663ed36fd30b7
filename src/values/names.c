/* names.c - a list of C strings (names.h). Any thread. */
#include "values/names.h"

#include <stddef.h>

#include "redis/api.h"

void names_append(Names *names, char *name) {
    /* Doubles at powers of two, so no capacity has to be kept. */
    if ((names->count & (names->count - 1)) == 0) {
        int64_t capacity = names->count ? names->count * 2 : 1;
        names->names = RedisModule_Realloc(names->names, capacity * sizeof(char *));
    }
    names->names[names->count++] = name;
}

void names_free(Names *names) {
    for (int64_t i = 0; i < names->count; i++) RedisModule_Free(names->names[i]);
    RedisModule_Free(names->names);
    *names = (Names){0};
}

size_t names_memory(const Names *names) {
    if (names->count == 0) return 0;
    size_t total = RedisModule_MallocSize(names->names);
    for (int64_t i = 0; i < names->count; i++) total += RedisModule_MallocSize(names->names[i]);
    return total;
}
