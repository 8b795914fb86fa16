// Prints what libllama allocates for the caches of a model, run by run: scripts/architectures.py.
//
// Words: the model, then of each run its name, context, slots, 1 for one cache of all slots,
// type of the cache (ggml_type), and states that are kept to take drafts back. A run whose name
// begins with `m` is the context of the heads that predict further tokens.
#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

static void said(enum ggml_log_level, const char * text, void *) {
    if (strstr(text, "buffer size") != nullptr) {
        fputs(text, stdout);
    }
}

int main(int argc, char ** argv) {
    llama_log_set(said, nullptr);
    llama_backend_init();
    llama_model_params with = llama_model_default_params();
    for (int at = 2; at + 5 < argc; at += 6) {
        with.load_mtp = with.load_mtp || argv[at][0] == 'm';
    }
    llama_model * model = llama_model_load_from_file(argv[1], with);
    for (int at = 2; model != nullptr && at + 5 < argc; at += 6) {
        llama_context_params params = llama_context_default_params();
        params.n_ctx         = atoi(argv[at + 1]);
        params.n_batch       = 2048;
        params.n_ubatch      = 512;
        params.n_seq_max     = atoi(argv[at + 2]);
        params.n_outputs_max = params.n_seq_max;
        params.kv_unified    = atoi(argv[at + 3]) != 0;
        params.type_k        = (ggml_type) atoi(argv[at + 4]);
        params.type_v        = params.type_k;
        params.n_rs_seq      = atoi(argv[at + 5]);
        params.swa_full      = false;
        if (argv[at][0] == 'm') {
            params.ctx_type = LLAMA_CONTEXT_TYPE_MTP;
        }
        printf("= %s\n", argv[at]);
        llama_context * context = llama_init_from_model(model, params);
        puts(context != nullptr ? "made" : "refused");
        if (context != nullptr) {
            llama_free(context);
        }
    }
    return model == nullptr;
}
