#!/usr/bin/env bash
# Makes the demo's vision tower and language model, with neva itself, from nothing but the generator of its world:
#   bash data/demo/make/parts.sh [FOLDER]      (about half an hour on two CPU cores; FOLDER holds what comes in between)
# 1. the tower learns to tell what stands in each patch; 2. the language model learns the language of this world from scenes
# in words; 3. and 4. it meets pictures that are not in the demo, through a projector that is thrown away afterwards:
# learning that one anew is what `neva pretrain` shows.
set -euo pipefail
cd "$(dirname "$0")/../../.."
work=${1:-build/demo-parts}
npm run --silent build
mkdir -p "$work"
[ -d "$work/world" ] || node dist/data/demo/make/more.js --out "$work/world" --seed 2 --count 20000
[ -d "$work/text" ] || node dist/data/demo/make/more.js --out "$work/text" --seed 3 --count 20000 --text
[ -d "$work/vision" ] || node dist/data/demo/make/tower.js --out "$work/vision"

common=(
  exp_manager.exp_dir="$work/runs" model.tokenizer.model=data/demo/llm
  model.mm_cfg.pretrain_mm_mlp_adapter=null model.mm_cfg.vision_encoder.from_pretrained="$work/vision"
  model.mm_cfg.llm.from_pretrained=null model.mm_cfg.llm.freeze=false
  data.image_folder="$work/world/images" model.optim.weight_decay=0.01 model.optim.sched.warmup_steps=30
)
npx neva finetune "${common[@]}" exp_manager.name=text data.data_path="$work/text/text.json" \
  model.num_layers=4 model.hidden_size=128 model.ffn_hidden_size=384 model.num_attention_heads=4 \
  model.vocab_size=512 model.max_position_embeddings=512 model.init_method_std=0.02 model.use_scaled_init_method=false \
  model.micro_batch_size=64 model.global_batch_size=64 trainer.max_steps=1000 model.optim.lr=2e-3 model.optim.sched.min_lr=1e-5
npx neva finetune "${common[@]}" exp_manager.name=captions data.data_path="$work/world/pretrain.json" \
  model.restore_from_path="$work/runs/text" model.data.conv_template=plain \
  trainer.max_steps=400 model.optim.lr=1.5e-3 model.optim.sched.min_lr=5e-4
npx neva finetune "${common[@]}" exp_manager.name=questions data.data_path="$work/world/finetune.json" \
  model.restore_from_path="$work/runs/captions" \
  trainer.max_steps=2400 model.optim.lr=1.5e-3 model.optim.sched.min_lr=1e-5

rm -rf "$work/llm"
npx neva convert-checkpoint --from "$work/runs/questions" --to hf --part llm --out "$work/llm"
for part in llm vision; do
  mkdir -p "data/demo/$part"
  cp "$work/$part/config.json" "$work/$part/model.safetensors" "data/demo/$part/"
done
