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

void names_copy(Names *to, const Names *from) {
    for (int64_t i = 0; i < from->count; i++) names_append(to, RedisModule_Strdup(from->names[i]));
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

Names *declared_list(Declared *declared, int index) {
    Names *lists[] = {&declared->inputs, &declared->outputs, &declared->input_ports, &declared->output_ports};
    return lists[index];
}

void declared_copy(Declared *to, const Declared *from) {
    *to = (Declared){.least_inputs = from->least_inputs,
                     .most_inputs = from->most_inputs,
                     .noutputs = from->noutputs,
                     .is_stateful = from->is_stateful};
    for (int i = 0; i < DECLARED_LISTS; i++) names_copy(declared_list(to, i), declared_list((Declared *)from, i));
}

void declared_free(Declared *declared) {
    for (int i = 0; i < DECLARED_LISTS; i++) names_free(declared_list(declared, i));
}
