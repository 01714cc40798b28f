/* A libcuda.so.1 without a device: it notes who calls cuInit and who is forked after that, and may be of any version.

   REHEARSAL_LOG: file that a line is added to for each event, "cuda PID PPID WORDS".
   REHEARSAL_CUDA: what cuDriverGetVersion answers, e.g. 12040; 13000 by default. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_INITIALIZED = 3, NO_DEVICE = 100 };
static int opened_by;

static void note(const char *words) {
    FILE *file = getenv("REHEARSAL_LOG") ? fopen(getenv("REHEARSAL_LOG"), "a") : NULL;
    if (!file) return;
    fprintf(file, "cuda %d %d %s\n", getpid(), getppid(), words);
    fclose(file);
}
static void forked(void) { if (opened_by) note("forked after cuInit"); }
__attribute__((constructor)) static void loaded(void) { pthread_atfork(NULL, NULL, forked); }

int cuInit(unsigned flags) {
    if (opened_by && opened_by != getpid()) { note("cuInit in a fork of a process that had called it"); return NOT_INITIALIZED; }
    if (!opened_by) note("cuInit");
    opened_by = getpid();
    return NO_DEVICE;
}
int cuDriverGetVersion(int *version) {
    *version = getenv("REHEARSAL_CUDA") ? atoi(getenv("REHEARSAL_CUDA")) : 13000;
    return SUCCESS;
}
int cuDeviceGetCount(int *count) { *count = 0; return opened_by == getpid() ? SUCCESS : NOT_INITIALIZED; }
int cuGetErrorString(int error, const char **text) { *text = "stub"; return SUCCESS; }
int cuGetErrorName(int error, const char **text) { *text = "STUB"; return SUCCESS; }
int cuGetExportTable(const void **table, const void *id) { *table = NULL; return NO_DEVICE; }
static int missing(void) { return NO_DEVICE; }

/* The runtime asks for every function by name; those that are not here answer that there is no device. */
static void *function(const char *name) {
    void *found = strncmp(name, "cu", 2) ? NULL : dlsym(RTLD_DEFAULT, name);
    Dl_info own, of;
    dladdr((void *)cuInit, &own);
    return found && dladdr(found, &of) && of.dli_fbase == own.dli_fbase ? found : (void *)missing;
}
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
    if (status) *status = 0;
    *found = strcmp(name, "cuGetProcAddress") ? function(name) : (void *)cuGetProcAddress_v2;
    return SUCCESS;
}
int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
    return cuGetProcAddress_v2(name, found, version, flags, NULL);
}
