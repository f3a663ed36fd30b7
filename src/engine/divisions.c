/* divisions.c - divisions of integers that have no result do not end the process (divisions.h). Main thread at load and
 * at CONFIG SET; the handler runs in whatever thread divides.
 *
 * x86 traps when a number is divided by zero, and when the smallest number is divided by -1. Libraries do not check for
 * that everywhere, and models choose what is divided. So the division gives 0 as quotient and remainder, and the thread
 * goes on. Other processors do not trap. Divisions of the server itself still end in its crash report. */
#include "engine/divisions.h"

#ifdef __x86_64__
#include <link.h>
#include <signal.h>
#include <ucontext.h>

static struct sigaction servers; /* its own handler */
static struct {
    uintptr_t begin, end;
} program; /* the server's code */

static int find_program(struct dl_phdr_info *info, size_t size, void *unused) {
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X)) continue;
        program.begin = info->dlpi_addr + part->p_vaddr;
        program.end = program.begin + part->p_memsz;
    }
    return 1; /* the first one is the program */
}

/* Sets the results of the division at this address to 0, and goes on behind it: prefixes, REX, F6 or F7, ModRM, SIB,
 * displacement. Returns 0 if it is no division. */
static int skip_division(greg_t *registers) {
    const unsigned char *at = (const unsigned char *)registers[REG_RIP];
    int is_short = 0, is_byte;
    for (; *at == 0x66 || *at == 0x2e || *at == 0x3e || *at == 0x64 || *at == 0x65; at++) is_short |= *at == 0x66;
    int is_long = (*at & 0xf8) == 0x48;
    if ((*at & 0xf0) == 0x40) at++;
    if ((*at & 0xfe) != 0xf6) return 0;
    is_byte = *at == 0xf6;
    unsigned modrm = at[1], mode = modrm >> 6, base = modrm & 7;
    if ((modrm & 0x30) != 0x30) return 0; /* neither DIV nor IDIV */
    at += 2;
    if (mode != 3 && base == 4) base = *at++ & 7;
    if (mode == 1) at += 1;
    if (mode == 2 || (mode == 0 && base == 5)) at += 4;
    /* Those of bytes are in AX, those of 16 bits in AX and DX. */
    greg_t kept = is_byte || (is_short && !is_long) ? ~(greg_t)0xffff : 0;
    registers[REG_RAX] &= kept;
    if (!is_byte) registers[REG_RDX] &= kept;
    registers[REG_RIP] = (greg_t)at;
    return 1;
}

static void on_division(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t address = (uintptr_t)registers[REG_RIP];
    int is_trap = info->si_code == FPE_INTDIV, is_servers = address >= program.begin && address < program.end;
    if (is_trap && !is_servers && skip_division(registers)) return;
    sigaction(SIGFPE, &servers, NULL);
    if (!is_trap) raise(signal); /* else the division traps again */
}

/* The server sets its handlers anew at CONFIG SET crash-log-enabled. */
static void install(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    struct sigaction ours = {.sa_sigaction = on_division, .sa_flags = SA_SIGINFO | SA_NODEFER}, before;
    if (sigaction(SIGFPE, &ours, &before) == 0 && before.sa_sigaction != on_division) servers = before;
}

void divisions_init(RedisModuleCtx *ctx) {
    dl_iterate_phdr(find_program, NULL);
    RedisModuleEvent config = {REDISMODULE_EVENT_CONFIG, 1};
    install(ctx, config, 0, NULL);
    RedisModule_SubscribeToServerEvent(ctx, config, install);
}
#else
void divisions_init(RedisModuleCtx *ctx) {}
#endif
