/* registry.c - all bindings, and those of a key (bindings.h). Main thread only.
 *
 * Each write to a hash or stream asks for the bindings of its key. So the prefixes are sorted: the last one that is not
 * behind the key, and those that it begins with itself, are all that the key can begin with. That is a search for one
 * prefix, however many there are. */
#include <string.h>

#include "bindings/bindings.h"

typedef struct Prefix {
    const char *text;
    size_t size;
    Binding *binding;
    int shorter; /* index of the longest prefix that this one begins with, or of its equal before it; -1: none */
} Prefix;

static Binding *first;
static Prefix *prefixes;
static int nprefixes;

Binding *bindings_first(void) { return first; }

Binding *bindings_find(const RedisModuleString *name) {
    Binding *b = first;
    while (b && RedisModule_StringCompare(b->name, name) != 0) b = b->next;
    return b;
}

static int compare(const char *one, size_t one_size, const char *other, size_t other_size) {
    int order = memcmp(one, other, one_size < other_size ? one_size : other_size);
    return order ? order : (one_size > other_size) - (one_size < other_size);
}

static int compare_prefixes(const void *one, const void *other) {
    const Prefix *a = one, *b = other;
    return compare(a->text, a->size, b->text, b->size);
}

static int begins_with(const char *text, size_t size, const Prefix *prefix) {
    return size >= prefix->size && memcmp(text, prefix->text, prefix->size) == 0;
}

static void index_prefixes(void) {
    nprefixes = 0;
    for (const Binding *b = first; b; b = b->next) nprefixes += b->nprefixes;
    prefixes = RedisModule_Realloc(prefixes, (nprefixes + 1) * sizeof(*prefixes));
    Prefix *at = prefixes;
    for (Binding *b = first; b; b = b->next) {
        for (int i = 0; i < b->nprefixes; i++, at++) {
            at->binding = b;
            at->text = RedisModule_StringPtrLen(b->prefixes[i], &at->size);
        }
    }
    qsort(prefixes, nprefixes, sizeof(*prefixes), compare_prefixes);
    for (int i = 0; i < nprefixes; i++) {
        int shorter = i - 1;
        while (shorter >= 0 && !begins_with(prefixes[i].text, prefixes[i].size, &prefixes[shorter])) {
            shorter = prefixes[shorter].shorter;
        }
        prefixes[i].shorter = shorter;
    }
}

/* The last prefix that is not behind the key; -1: all are. */
static int last_before(const char *key, size_t size) {
    int from = 0, to = nprefixes;
    while (from < to) {
        int middle = (from + to) / 2;
        if (compare(prefixes[middle].text, prefixes[middle].size, key, size) <= 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from - 1;
}

void bindings_of_key(RedisModuleCtx *ctx, RedisModuleString *key, BindingVisit visit, void *data) {
    size_t size;
    const char *text = RedisModule_StringPtrLen(key, &size);
    for (int i = last_before(text, size); i >= 0; i = prefixes[i].shorter) {
        Binding *b = prefixes[i].binding;
        if (!begins_with(text, size, &prefixes[i]) || (b->is_exact && size != prefixes[i].size)) continue;
        if (RedisModule_GetSelectedDb(ctx) == b->db) visit(b, key, data);
    }
}

static void forget(Binding *b) {
    b->is_removed = 1;
    work_drop_reading(b);
    pending_clear(b);
    binding_unref(b);
}

void bindings_add(Binding *b) {
    Binding **at = &first;
    while (*at) at = &(*at)->next;
    *at = b;
    index_prefixes();
}

void bindings_remove(Binding *b) {
    Binding **at = &first;
    while (*at != b) at = &(*at)->next;
    *at = b->next;
    index_prefixes();
    forget(b);
}

void bindings_replace(Binding *list) {
    Binding *old = first;
    first = list;
    index_prefixes();
    for (Binding *next; old; old = next) {
        next = old->next;
        forget(old);
    }
}
