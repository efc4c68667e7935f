/*
 * A stand-in for libnvidia-ml.so.1: answers NVML calls from a text file.
 *
 * The file is named by the variable FAKE_NVML and read again on every call, so a test replaces it
 * and the next call sees that. README.md has the grammar. Made for tests of software that calls
 * NVML; it shows what that software does with answers, not what a driver does.
 *
 * Layouts of structures follow the public nvml.h interface, checked by a test against the binding.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define API __attribute__((visibility("default")))
#define GPUS_MAX 16
#define SLOTS_MAX 7
#define LINKS_MAX 36
#define PROCESSES_MAX 32
#define RULES_MAX 64
#define EVENTS_MAX 64
#define PATHS_MAX (GPUS_MAX * GPUS_MAX * 4)
#define PAIRS_MAX 64
#define TEXT_MAX 96
#define STATE_MAX (1 << 18)
#define NONE 0xFFFFFFFFu

enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    VERSION_MISMATCH = 25,
    UNKNOWN = 999
};

typedef struct { char key[24], value[TEXT_MAX]; } Pair;
typedef struct { int exists, count; Pair pairs[PAIRS_MAX]; } Record;
typedef struct { int exists, active, type; char bus[32]; } Link;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gi, ci; char kind[12]; } Process;
typedef struct { char function[64]; int gpu, code; } Rule; /* gpu -1: any */
typedef struct { int gpu; unsigned long long type, data; unsigned gi, ci; } Event;
typedef struct { int first, second, kind, value; } Path; /* kind -1: topology */

static struct {
    Record system, gpus[GPUS_MAX], instances[GPUS_MAX][SLOTS_MAX];
    Link links[GPUS_MAX][LINKS_MAX];
    Process processes[GPUS_MAX][PROCESSES_MAX];
    int process_count[GPUS_MAX], fault_count, sleep_count, event_count, path_count, gpu_count;
    Rule faults[RULES_MAX], sleeps[RULES_MAX];
    Event events[EVENTS_MAX];
    Path paths[PATHS_MAX];
    char problem[160];
} state;

/* A handle is the address of one of these; slot -1 is the GPU itself. */
typedef struct { int gpu, slot; } Handle;
static Handle handles[GPUS_MAX][SLOTS_MAX + 1];

typedef struct { unsigned long long masks[GPUS_MAX]; int cursor; } EventSet;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int init_count;

static void release(int *held) { if (*held) pthread_mutex_unlock(&lock); }
static int acquire(void) { pthread_mutex_lock(&lock); return 1; }
#define LOCKED __attribute__((cleanup(release), unused)) int held = acquire()

static void pause_ms(long ms)
{
    struct timespec left = {ms / 1000, (ms % 1000) * 1000000L};
    while (nanosleep(&left, &left) != 0) { }
}

/* ---- the state file ---- */

static void problem(const char *what, const char *line)
{
    if (!state.problem[0])
        snprintf(state.problem, sizeof state.problem, "fake NVML: %s: %.80s", what, line);
}

/* "_" stands for a space and "\xHH" for a byte. */
static void unescape(char *out, size_t size, const char *text)
{
    size_t n = 0;
    unsigned byte;
    for (; *text && n + 1 < size; text++) {
        if (text[0] == '\\' && text[1] == 'x' && sscanf(text + 2, "%2x", &byte) == 1) {
            out[n++] = (char)byte;
            text += 3;
        } else {
            out[n++] = *text == '_' ? ' ' : *text;
        }
    }
    out[n] = 0;
}

static void read_pairs(Record *record, char *words, const char *line)
{
    char *rest = NULL, *word;
    record->exists = 1;
    for (word = strtok_r(words, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
        char *equals = strchr(word, '=');
        if (!equals || equals - word >= (long)sizeof record->pairs[0].key
            || strlen(equals) > TEXT_MAX || record->count >= PAIRS_MAX) {
            problem("a bad or too long key=value", line);
            return;
        }
        Pair *pair = &record->pairs[record->count++];
        *equals = 0;
        strcpy(pair->key, word);
        unescape(pair->value, sizeof pair->value, equals + 1);
    }
}

static int index_of(const char *text, int most)
{
    char *end;
    long value = strtol(text, &end, 10);
    return *end || end == text || value < 0 || value >= most ? -1 : (int)value;
}

static void read_rule(Rule *rules, int *count, const char *words, const char *line)
{
    char gpu[12];
    Rule rule;
    if (*count >= RULES_MAX || sscanf(words, "%63s %11s %d", rule.function, gpu, &rule.code) != 3) {
        problem("a bad rule, or too many", line);
        return;
    }
    rule.gpu = strcmp(gpu, "*") == 0 ? -1 : index_of(gpu, GPUS_MAX);
    if (strcmp(gpu, "*") != 0 && rule.gpu < 0)
        problem("no such GPU", line);
    rules[(*count)++] = rule;
}

static void read_event(int is_xid, const char *words, const char *line)
{
    Event event = {0, 0x8, 0, NONE, NONE};
    int found;
    if (is_xid)
        found = 1 + sscanf(words, "%d %llu %u %u", &event.gpu, &event.data, &event.gi, &event.ci);
    else
        found = sscanf(words, "%d %lli %llu %u %u", &event.gpu, (long long *)&event.type,
                       &event.data, &event.gi, &event.ci);
    if (found < 3 || event.gpu < 0 || event.gpu >= GPUS_MAX || state.event_count >= EVENTS_MAX) {
        problem("a bad event, or too many", line);
        return;
    }
    state.events[state.event_count++] = event;
}

static void read_process(const char *words, const char *line)
{
    int gpu;
    Process one = {0, 0, NONE, NONE, "compute"};
    if (sscanf(words, "%d %u %llu %u %u %11s", &gpu, &one.pid, &one.bytes, &one.gi, &one.ci,
               one.kind) < 3
        || gpu < 0 || gpu >= GPUS_MAX || state.process_count[gpu] >= PROCESSES_MAX) {
        problem("a bad process, or too many", line);
        return;
    }
    state.processes[gpu][state.process_count[gpu]++] = one;
}

static void read_link(const char *words, const char *line)
{
    int gpu, number;
    Link link = {1, 0, 255, ""};
    if (sscanf(words, "%d %d %d %d %31s", &gpu, &number, &link.active, &link.type, link.bus) < 3
        || gpu < 0 || gpu >= GPUS_MAX || number < 0 || number >= LINKS_MAX) {
        problem("a bad NVLink", line);
        return;
    }
    state.links[gpu][number] = link;
}

static void read_path(int is_topology, const char *words, const char *line)
{
    Path path = {0, 0, -1, 0};
    int found = is_topology ? sscanf(words, "%d %d %d", &path.first, &path.second, &path.value) + 1
                            : sscanf(words, "%d %d %d %d", &path.first, &path.second, &path.kind,
                                     &path.value);
    if (found != 4 || state.path_count >= PATHS_MAX) {
        problem("a bad path, or too many", line);
        return;
    }
    state.paths[state.path_count++] = path;
}

static void read_record(const char *verb, char *words, const char *line)
{
    char first[12] = "", second[12] = "";
    int used = 0, gpu, slot;
    if (strcmp(verb, "gpu") == 0) {
        sscanf(words, "%11s %n", first, &used);
        gpu = index_of(first, GPUS_MAX);
        if (gpu < 0) { problem("no such GPU", line); return; }
        read_pairs(&state.gpus[gpu], words + used, line);
        if (gpu >= state.gpu_count) state.gpu_count = gpu + 1;
        return;
    }
    sscanf(words, "%11s %11s %n", first, second, &used);
    gpu = index_of(first, GPUS_MAX);
    slot = index_of(second, SLOTS_MAX);
    if (gpu < 0 || slot < 0) { problem("no such GPU or slot", line); return; }
    read_pairs(&state.instances[gpu][slot], words + used, line);
}

static void read_line(char *line)
{
    char verb[24], whole[160];
    int used = 0;
    snprintf(whole, sizeof whole, "%s", line);
    if (sscanf(line, "%23s %n", verb, &used) != 1 || verb[0] == '#') return;
    char *words = line + used;
    if (strcmp(verb, "gpu") == 0 || strcmp(verb, "mig") == 0) read_record(verb, words, whole);
    else if (strcmp(verb, "system") == 0) read_pairs(&state.system, words, whole);
    else if (strcmp(verb, "fail") == 0) read_rule(state.faults, &state.fault_count, words, whole);
    else if (strcmp(verb, "sleep") == 0) read_rule(state.sleeps, &state.sleep_count, words, whole);
    else if (strcmp(verb, "xid") == 0) read_event(1, words, whole);
    else if (strcmp(verb, "event") == 0) read_event(0, words, whole);
    else if (strcmp(verb, "proc") == 0) read_process(words, whole);
    else if (strcmp(verb, "nvlink") == 0) read_link(words, whole);
    else if (strcmp(verb, "topo") == 0) read_path(1, words, whole);
    else if (strcmp(verb, "p2p") == 0) read_path(0, words, whole);
    else problem("no such statement", whole);
}

/* Only what says that something is there: clearing all of it would cost more than the parsing. */
static void forget(void)
{
    state.system.count = 0;
    for (int gpu = 0; gpu < GPUS_MAX; gpu++) {
        state.gpus[gpu].exists = state.gpus[gpu].count = state.process_count[gpu] = 0;
        for (int slot = 0; slot < SLOTS_MAX; slot++)
            state.instances[gpu][slot].exists = state.instances[gpu][slot].count = 0;
        for (int link = 0; link < LINKS_MAX; link++) state.links[gpu][link].exists = 0;
    }
    state.fault_count = state.sleep_count = state.event_count = 0;
    state.path_count = state.gpu_count = 0;
    state.problem[0] = 0;
}

/* Reads the file on every call, and parses it when it says something else than before. */
static void reload(void)
{
    static char text[STATE_MAX], known[STATE_MAX], lines[STATE_MAX];
    static int is_known;
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[size] = 0;
    if (file) fclose(file);
    if (file && is_known && strcmp(text, known) == 0) return;
    forget();
    strcpy(known, text);
    strcpy(lines, text);
    is_known = file != NULL;
    if (!file) problem("FAKE_NVML does not name a readable file", path ? path : "");
    if (size == sizeof text - 1) problem("the state file is too long", path);
    char *rest = NULL;
    for (char *line = strtok_r(lines, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
        read_line(line);
    if (state.problem[0]) fprintf(stderr, "%s\n", state.problem);
}

/* The value of a key; NULL when it is absent or "na". */
static const char *find(const Record *record, const char *key)
{
    for (int i = record->count - 1; i >= 0; i--)
        if (strcmp(record->pairs[i].key, key) == 0)
            return strcmp(record->pairs[i].value, "na") == 0 ? NULL : record->pairs[i].value;
    return NULL;
}

/* ---- what every call does first ---- */

typedef struct { int code; const Record *record; int gpu, slot; } Call;

static int matching(const Rule *rules, int count, const char *function, int gpu, int is_system)
{
    for (int i = 0; i < count; i++) {
        int same = strcmp(rules[i].function, function) == 0;
        int any = strcmp(rules[i].function, "*") == 0 && !is_system;
        if ((same || any) && (rules[i].gpu == -1 || rules[i].gpu == gpu)) return rules[i].code;
    }
    return 0;
}

static int fault(const char *function, int gpu, int is_system)
{
    reload();
    int ms = matching(state.sleeps, state.sleep_count, function, gpu, is_system);
    if (ms > 0) {
        pthread_mutex_unlock(&lock);
        pause_ms(ms);
        pthread_mutex_lock(&lock);
        reload();
    }
    if (state.problem[0]) return UNKNOWN;
    return matching(state.faults, state.fault_count, function, gpu, is_system);
}

static int enter_system(const char *function)
{
    int code = fault(function, -1, 1);
    return code ? code : init_count ? OK : UNINITIALIZED;
}

static Call enter_device(const char *function, const void *pointer)
{
    Call call = {INVALID_ARGUMENT, NULL, -1, -1};
    const Handle *handle = pointer;
    if (!init_count) { call.code = UNINITIALIZED; return call; }
    if (handle < &handles[0][0] || handle > &handles[GPUS_MAX - 1][SLOTS_MAX]) return call;
    call.gpu = handle->gpu;
    call.slot = handle->slot;
    call.code = fault(function, call.gpu, 0);
    call.record = call.slot < 0 ? &state.gpus[call.gpu] : &state.instances[call.gpu][call.slot];
    if (!call.code && !call.record->exists) call.code = NOT_FOUND;
    return call;
}

#define SYSTEM LOCKED; int code = enter_system(__func__); if (code) return code
#define DEVICE LOCKED; Call c = enter_device(__func__, handle); if (c.code) return c.code
#define GPU_ONLY DEVICE; if (c.slot >= 0) return INVALID_ARGUMENT
#define MIG_ONLY DEVICE; if (c.slot < 0) return INVALID_ARGUMENT
#define WHOLE_GPU GPU_ONLY; if (mig_is_on(&c)) return NOT_SUPPORTED

static int parts(const Record *record, const char *key, long long *out, int count)
{
    const char *text = find(record, key);
    char *end;
    if (text && *text == '!') return atoi(text + 1);
    for (int i = 0; i < count; i++) {
        if (!text || !*text) return NOT_SUPPORTED;
        out[i] = strtoll(text, &end, 0);
        if (end == text) return NOT_SUPPORTED;
        text = *end ? end + 1 : end;
    }
    return OK;
}

static int mig_is_on(const Call *c)
{
    long long modes[2] = {0, 0};
    return parts(&state.gpus[c->gpu], "mig", modes, 2) == OK && modes[0] == 1;
}

static int number(const Record *record, const char *key, unsigned *out)
{
    long long value;
    if (!out) return INVALID_ARGUMENT;
    int code = parts(record, key, &value, 1);
    if (!code) *out = (unsigned)value;
    return code;
}

static int text(const Record *record, const char *key, char *out, unsigned size)
{
    const char *value = find(record, key);
    if (!value) return NOT_SUPPORTED;
    if (*value == '!') return atoi(value + 1);
    if (!out) return INVALID_ARGUMENT;
    if (strlen(value) + 1 > size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}

/* ---- system ---- */

static int start(const char *function)
{
    LOCKED;
    int code = fault(function, -1, 1);
    unsigned wanted = 0;
    if (!code && number(&state.system, "init", &wanted) == OK) code = (int)wanted;
    if (code) return code;
    init_count++;
    for (int gpu = 0; gpu < GPUS_MAX; gpu++)
        for (int slot = -1; slot < SLOTS_MAX; slot++) handles[gpu][slot + 1] = (Handle){gpu, slot};
    return OK;
}

API int nvmlInit_v2(void) { return start(__func__); }
API int nvmlInitWithFlags(unsigned flags) { (void)flags; return start(__func__); }

API int nvmlShutdown(void)
{
    LOCKED;
    if (!init_count) return UNINITIALIZED;
    init_count--;
    return OK;
}

API const char *nvmlErrorString(int code)
{
    static __thread char told[48];
    snprintf(told, sizeof told, "fake NVML error %d", code);
    return told;
}

API int nvmlSystemGetDriverVersion(char *out, unsigned size)
{ SYSTEM; return text(&state.system, "driver", out, size); }
API int nvmlSystemGetNVMLVersion(char *out, unsigned size)
{ SYSTEM; return text(&state.system, "nvml", out, size); }
API int nvmlSystemGetCudaDriverVersion(int *out)
{ SYSTEM; return number(&state.system, "cuda", (unsigned *)out); }
API int nvmlSystemGetCudaDriverVersion_v2(int *out)
{ SYSTEM; return number(&state.system, "cuda", (unsigned *)out); }

API int nvmlDeviceGetCount_v2(unsigned *count)
{
    SYSTEM;
    if (!count) return INVALID_ARGUMENT;
    *count = (unsigned)state.gpu_count;
    return OK;
}

/* ---- identity ---- */

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out)
{
    LOCKED;
    if (!init_count) return UNINITIALIZED;
    if (index >= GPUS_MAX || !out) return INVALID_ARGUMENT;
    int code = fault(__func__, (int)index, 0);
    if (code) return code;
    if (!state.gpus[index].exists) return INVALID_ARGUMENT;
    *out = &handles[index][0];
    return OK;
}

API int nvmlDeviceGetHandleByUUID(const char *uuid, void **out)
{
    SYSTEM;
    if (!uuid || !out) return INVALID_ARGUMENT;
    for (int gpu = 0; gpu < GPUS_MAX; gpu++)
        for (int slot = -1; slot < SLOTS_MAX; slot++) {
            const Record *record = slot < 0 ? &state.gpus[gpu] : &state.instances[gpu][slot];
            const char *found = record->exists ? find(record, "uuid") : NULL;
            if (!found || strcmp(found, uuid) != 0) continue;
            *out = &handles[gpu][slot + 1];
            return OK;
        }
    return NOT_FOUND;
}

#define TEXT_CALL(NAME, KEY)                                          \
    API int NAME(void *handle, char *out, unsigned size)              \
    { DEVICE; return text(c.record, KEY, out, size); }
#define NUMBER_CALL(NAME, KEY)                                        \
    API int NAME(void *handle, unsigned *out)                         \
    { GPU_ONLY; return number(c.record, KEY, out); }

TEXT_CALL(nvmlDeviceGetUUID, "uuid")
TEXT_CALL(nvmlDeviceGetName, "name")
TEXT_CALL(nvmlDeviceGetSerial, "serial")
TEXT_CALL(nvmlDeviceGetBoardPartNumber, "part")
TEXT_CALL(nvmlDeviceGetVbiosVersion, "vbios")
NUMBER_CALL(nvmlDeviceGetMinorNumber, "minor")
NUMBER_CALL(nvmlDeviceGetArchitecture, "arch")
NUMBER_CALL(nvmlDeviceGetModuleId, "module")
NUMBER_CALL(nvmlDeviceGetPowerUsage, "power")
NUMBER_CALL(nvmlDeviceGetEnforcedPowerLimit, "limit")
NUMBER_CALL(nvmlDeviceGetRetiredPagesPendingStatus, "retired")
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkGeneration, "gen")
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkGeneration, "gen_max")
NUMBER_CALL(nvmlDeviceGetCurrPcieLinkWidth, "width")
NUMBER_CALL(nvmlDeviceGetMaxPcieLinkWidth, "width_max")
NUMBER_CALL(nvmlDeviceGetPcieReplayCounter, "replays")

API int nvmlDeviceGetGspFirmwareVersion(void *handle, char *out)
{ GPU_ONLY; return text(c.record, "gsp", out, 64); }

API int nvmlDeviceGetIndex(void *handle, unsigned *out)
{ DEVICE; if (!out) return INVALID_ARGUMENT; *out = (unsigned)c.gpu; return OK; }

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, ids, subsystem;
    char id[32];
} PciInfo;

static int fill_pci(PciInfo *out, const char *bus)
{
    unsigned function;
    memset(out, 0, sizeof *out);
    if (sscanf(bus, "%x:%x:%x.%x", &out->domain, &out->bus, &out->device, &function) != 4)
        return UNKNOWN;
    snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.0", out->domain & 0xFFFF,
             out->bus & 0xFF, out->device & 0xFF);
    snprintf(out->id, sizeof out->id, "%s", bus);
    return OK;
}

API int nvmlDeviceGetPciInfo_v3(void *handle, PciInfo *out)
{
    GPU_ONLY;
    const char *bus = find(c.record, "bus");
    return !out ? INVALID_ARGUMENT : !bus ? NOT_SUPPORTED : fill_pci(out, bus);
}

API int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
    GPU_ONLY;
    long long pair[2];
    int code = parts(c.record, "cc", pair, 2);
    if (code) return code;
    *major = (int)pair[0];
    *minor = (int)pair[1];
    return OK;
}

#define CHECK(STRUCT, NUMBER)                                         \
    if (!out) return INVALID_ARGUMENT;                                \
    if (out->version != ((NUMBER##u << 24) | sizeof(STRUCT))) return VERSION_MISMATCH

typedef struct { unsigned version, value; } AddressingMode;
API int nvmlDeviceGetAddressingMode(void *handle, AddressingMode *out)
{ GPU_ONLY; CHECK(AddressingMode, 1); return number(c.record, "addressing", &out->value); }

typedef struct {
    unsigned version;
    unsigned char guid[16], chassis[16], slot, tray, host, peer, module;
} PlatformInfo;
API int nvmlDeviceGetPlatformInfo(void *handle, PlatformInfo *out)
{
    GPU_ONLY;
    CHECK(PlatformInfo, 2);
    const char *chassis = find(c.record, "chassis");
    if (!chassis) return NOT_SUPPORTED;
    memset(out->guid, 0xFE, sizeof out->guid); /* no text in any encoding */
    memset(out->chassis, 0, sizeof out->chassis);
    memcpy(out->chassis, chassis, strnlen(chassis, sizeof out->chassis));
    out->slot = out->tray = out->host = out->peer = out->module = 0x81;
    return OK;
}

/* ---- memory, load, environment ---- */

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;

static int fill_memory(const Record *record, Memory2 *out)
{
    long long mib[3];
    if (parts(record, "mem", &mib[0], 1) || parts(record, "used", &mib[1], 1)) return NOT_SUPPORTED;
    if (parts(record, "reserved", &mib[2], 1)) mib[2] = 0;
    out->total = (unsigned long long)mib[0] << 20;
    out->used = (unsigned long long)mib[1] << 20;
    out->reserved = (unsigned long long)mib[2] << 20;
    out->free = out->total - out->used - out->reserved;
    return OK;
}

API int nvmlDeviceGetMemoryInfo(void *handle, Memory *out)
{
    DEVICE;
    Memory2 full;
    int code = out ? fill_memory(c.record, &full) : INVALID_ARGUMENT;
    if (!code) *out = (Memory){full.total, full.free, full.used + full.reserved};
    return code;
}

API int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory2 *out)
{ DEVICE; CHECK(Memory2, 2); return fill_memory(c.record, out); }

typedef struct { unsigned gpu, memory; } Utilization;
API int nvmlDeviceGetUtilizationRates(void *handle, Utilization *out)
{
    DEVICE;
    long long pair[2];
    if (mig_is_on(&c)) return NOT_SUPPORTED;
    int code = parts(c.record, "util", pair, 2);
    if (!code) *out = (Utilization){(unsigned)pair[0], (unsigned)pair[1]};
    return code;
}

typedef struct { unsigned version, sensor; int temperature; } Temperature;
API int nvmlDeviceGetTemperatureV(void *handle, Temperature *out)
{ GPU_ONLY; CHECK(Temperature, 1); return number(c.record, "temp", (unsigned *)&out->temperature); }
API int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *out)
{ GPU_ONLY; (void)sensor; return number(c.record, "temp", out); }

typedef struct { unsigned version; int margin; } Margin;
API int nvmlDeviceGetMarginTemperature(void *handle, Margin *out)
{ GPU_ONLY; CHECK(Margin, 1); return number(c.record, "margin", (unsigned *)&out->margin); }

static int clocks(const Call *c, unsigned long long *out)
{
    long long bits;
    int code = out ? parts(c->record, "clocks", &bits, 1) : INVALID_ARGUMENT;
    if (!code) *out = (unsigned long long)bits;
    return code;
}
API int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *out)
{ GPU_ONLY; return clocks(&c, out); }
API int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *out)
{ GPU_ONLY; return clocks(&c, out); }

/* ---- faults ---- */

API int nvmlDeviceGetEccMode(void *handle, unsigned *now, unsigned *next)
{
    GPU_ONLY;
    long long pair[2];
    int code = parts(c.record, "ecc", pair, 2);
    if (code) return code;
    *now = (unsigned)pair[0];
    *next = (unsigned)pair[1];
    return OK;
}

/* ecc_errors=VOLATILE_CORRECTED/VOLATILE_UNCORRECTED/AGGREGATE_CORRECTED/AGGREGATE_UNCORRECTED */
API int nvmlDeviceGetTotalEccErrors(void *handle, unsigned kind, unsigned counter,
                                    unsigned long long *out)
{
    GPU_ONLY;
    long long counts[4];
    if (!out || kind > 1 || counter > 1) return INVALID_ARGUMENT;
    int code = parts(c.record, "ecc_errors", counts, 4);
    if (!code) *out = (unsigned long long)counts[counter * 2 + kind];
    return code;
}

typedef struct { unsigned version; unsigned long long counts[11]; unsigned exceeded; } SramStatus;
API int nvmlDeviceGetSramEccErrorStatus(void *handle, SramStatus *out)
{ GPU_ONLY; CHECK(SramStatus, 1); return number(c.record, "sram", &out->exceeded); }

API int nvmlDeviceGetRemappedRows(void *handle, unsigned *corrected, unsigned *uncorrected,
                                  unsigned *pending, unsigned *failed)
{
    WHOLE_GPU;
    long long four[4];
    int code = parts(c.record, "remap", four, 4);
    if (code) return code;
    *corrected = (unsigned)four[0];
    *uncorrected = (unsigned)four[1];
    *pending = (unsigned)four[2];
    *failed = (unsigned)four[3];
    return OK;
}

typedef struct {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type, code;
    unsigned long long value;
} FieldValue;

API int nvmlDeviceGetFieldValues(void *handle, int count, FieldValue *values)
{
    GPU_ONLY;
    if (!values || count < 0) return INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        unsigned found = 0;
        const char *key = values[i].id == 82 ? "memtemp" : values[i].id == 91 ? "links"
                        : values[i].id == 230 ? "recovery" : "";
        values[i].code = (unsigned)number(c.record, key, &found);
        values[i].type = 1;
        values[i].value = found;
    }
    return OK;
}

/* ---- MIG ---- */

API int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *next)
{
    GPU_ONLY;
    long long pair[2];
    unsigned arch = 0;
    if (number(c.record, "arch", &arch) == OK && arch < 7) return NOT_SUPPORTED;
    int code = parts(c.record, "mig", pair, 2);
    if (code) return code;
    *now = (unsigned)pair[0];
    *next = (unsigned)pair[1];
    return OK;
}

API int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *out)
{ GPU_ONLY; if (!out) return INVALID_ARGUMENT; *out = SLOTS_MAX; return OK; }

API int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned slot, void **out)
{
    GPU_ONLY;
    if (!out || slot >= SLOTS_MAX) return INVALID_ARGUMENT;
    if (!mig_is_on(&c) || !state.instances[c.gpu][slot].exists) return NOT_FOUND;
    *out = &handles[c.gpu][slot + 1];
    return OK;
}

API int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *out)
{ DEVICE; if (!out) return INVALID_ARGUMENT; *out = c.slot >= 0; return OK; }

API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **out)
{ MIG_ONLY; if (!out) return INVALID_ARGUMENT; *out = &handles[c.gpu][0]; return OK; }

API int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *out)
{ MIG_ONLY; return number(c.record, "gi", out); }
API int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *out)
{ MIG_ONLY; return number(c.record, "ci", out); }

typedef struct { unsigned sms, counts[7]; unsigned long long memory_mib; } Attributes;
API int nvmlDeviceGetAttributes_v2(void *handle, Attributes *out)
{
    MIG_ONLY;
    if (!out) return INVALID_ARGUMENT;
    memset(out, 0, sizeof *out);
    return number(c.record, "sms", &out->sms);
}

/* ---- connections ---- */

static int path(int first, int second, int kind, int otherwise)
{
    for (int i = 0; i < state.path_count; i++) {
        const Path *one = &state.paths[i];
        int same = (one->first == first && one->second == second)
                || (one->first == second && one->second == first);
        if (same && one->kind == kind) return one->value;
    }
    return otherwise;
}

API int nvmlDeviceGetTopologyCommonAncestor(void *handle, void *other, unsigned *out)
{
    GPU_ONLY;
    Call d = enter_device(__func__, other);
    if (d.code || !out) return d.code ? d.code : INVALID_ARGUMENT;
    *out = (unsigned)path(c.gpu, d.gpu, -1, 50);
    return OK;
}

API int nvmlDeviceGetP2PStatus(void *handle, void *other, unsigned kind, unsigned *out)
{
    GPU_ONLY;
    Call d = enter_device(__func__, other);
    if (d.code || !out || kind > 4) return d.code ? d.code : INVALID_ARGUMENT;
    *out = (unsigned)path(c.gpu, d.gpu, (int)kind, 5);
    return OK;
}

#define LINK                                                          \
    WHOLE_GPU;                                                        \
    if (!out || number_of_link >= LINKS_MAX) return INVALID_ARGUMENT; \
    const Link *link = &state.links[c.gpu][number_of_link];           \
    if (!link->exists) return NOT_SUPPORTED

API int nvmlDeviceGetNvLinkState(void *handle, unsigned number_of_link, unsigned *out)
{ LINK; *out = (unsigned)link->active; return OK; }
API int nvmlDeviceGetNvLinkRemoteDeviceType(void *handle, unsigned number_of_link, unsigned *out)
{ LINK; *out = (unsigned)link->type; return OK; }
API int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *handle, unsigned number_of_link, PciInfo *out)
{ LINK; return link->bus[0] ? fill_pci(out, link->bus) : NOT_SUPPORTED; }

/* fabric=STATE/CLIQUE/HEALTH, fabric_uuid=32 hex digits */
typedef struct {
    unsigned version;
    unsigned char uuid[16];
    unsigned status, clique, state, mask;
    unsigned char health;
} Fabric3;
typedef struct {
    unsigned version;
    unsigned char uuid[16];
    unsigned status, clique, state, mask;
} Fabric2;

API int nvmlDeviceGetGpuFabricInfoV(void *handle, Fabric3 *out)
{
    GPU_ONLY;
    long long three[3];
    unsigned newest = 3;
    if (!out) return INVALID_ARGUMENT;
    number(c.record, "fabric_version", &newest);
    unsigned wanted = newest >= 3 ? ((3u << 24) | sizeof(Fabric3)) : ((2u << 24) | sizeof(Fabric2));
    if (out->version != wanted) return VERSION_MISMATCH;
    int code = parts(c.record, "fabric", three, 3);
    if (code) return code;
    const char *hex = find(c.record, "fabric_uuid");
    for (int i = 0; i < 16; i++) {
        unsigned byte = 0;
        if (hex && strlen(hex) == 32) sscanf(hex + 2 * i, "%2x", &byte);
        out->uuid[i] = (unsigned char)byte;
    }
    out->status = 0;
    out->mask = 0;
    out->state = (unsigned)three[0];
    out->clique = (unsigned)three[1];
    if (newest >= 3) out->health = (unsigned char)three[2];
    return OK;
}

/* ---- processes ---- */

typedef struct { unsigned pid; unsigned long long bytes; unsigned gi, ci; } ProcessInfo;

static int processes(const char *function, void *handle, const char *kind, unsigned *count,
                     ProcessInfo *out)
{
    LOCKED;
    Call c = enter_device(function, handle);
    if (c.code || !count) return c.code ? c.code : INVALID_ARGUMENT;
    unsigned found = 0, room = *count;
    for (int i = 0; i < state.process_count[c.gpu]; i++) {
        const Process *one = &state.processes[c.gpu][i];
        if (strcmp(one->kind, kind) != 0) continue;
        if (out && found < room) out[found] = (ProcessInfo){one->pid, one->bytes, one->gi, one->ci};
        found++;
    }
    *count = found;
    return found > room || (found && !out) ? INSUFFICIENT_SIZE : OK;
}

#define PROCESS_CALL(NAME, KIND)                                      \
    API int NAME(void *handle, unsigned *count, ProcessInfo *out)     \
    { return processes(__func__, handle, KIND, count, out); }
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v3, "compute")
PROCESS_CALL(nvmlDeviceGetComputeRunningProcesses_v2, "compute")
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics")
PROCESS_CALL(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics")
PROCESS_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps")
PROCESS_CALL(nvmlDeviceGetMPSComputeRunningProcesses_v2, "mps")

/* ---- events ---- */

typedef struct { void *device; unsigned long long type, data; unsigned gi, ci; } EventData;

API int nvmlEventSetCreate(void **out)
{
    SYSTEM;
    if (!out) return INVALID_ARGUMENT;
    *out = calloc(1, sizeof(EventSet));
    return *out ? OK : UNKNOWN;
}

API int nvmlEventSetFree(void *set) { LOCKED; free(set); return OK; }

API int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *out)
{
    GPU_ONLY;
    long long types;
    if (!out) return INVALID_ARGUMENT;
    int code = parts(c.record, "event_types", &types, 1);
    if (!code) *out = (unsigned long long)types;
    return code;
}

API int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, void *set)
{
    GPU_ONLY;
    long long known;
    if (!set) return INVALID_ARGUMENT;
    int code = parts(c.record, "event_types", &known, 1);
    if (code) return code;
    if (types & ~(unsigned long long)known) return NOT_SUPPORTED;
    ((EventSet *)set)->masks[c.gpu] |= types;
    return OK;
}

static int next_event(EventSet *set, EventData *out)
{
    while (set->cursor < state.event_count) {
        const Event *event = &state.events[set->cursor++];
        if (!(set->masks[event->gpu] & event->type)) continue;
        *out = (EventData){&handles[event->gpu][0], event->type, event->data, event->gi, event->ci};
        return 1;
    }
    return 0;
}

API int nvmlEventSetWait_v2(void *set, EventData *out, unsigned timeout_ms)
{
    if (!set || !out) return INVALID_ARGUMENT;
    for (long waited = 0;; waited += 20) {
        {
            SYSTEM;
            if (next_event(set, out)) return OK;
        }
        if (waited >= (long)timeout_ms) return TIMEOUT;
        pause_ms(20);
    }
}
