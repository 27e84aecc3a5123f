"""Tiny random pipelines of every family, as diffusers' own tests build them, without text encoders: prompts are given as embeddings."""
from __future__ import annotations

import torch
from diffusers import (
    AllegroPipeline, AllegroTransformer3DModel, AutoencoderKL, AutoencoderKLAllegro, AutoencoderKLCogVideoX, AutoencoderKLHunyuanVideo,
    AutoencoderKLLTXVideo, CogVideoXPipeline, CogVideoXTransformer3DModel, DDIMScheduler,
    EulerAncestralDiscreteScheduler, FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel,
    LattePipeline, LatteTransformer3DModel, LTXPipeline, LTXVideoTransformer3DModel, MochiPipeline, MochiTransformer3DModel,
    UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel,
)

STEPS = 12


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wan_transformer(seed=0, layers=3):
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, freq_dim=256,
        ffn_dim=32, num_layers=layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    ).eval()


def wan(seed=0):
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=wan_transformer(seed),
                       scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0))
    call = dict(prompt_embeds=random(1, 16, 32), negative_prompt_embeds=random(1, 16, 32, seed=1), height=32, width=32, num_frames=9)
    return pipe, call


def wan22(seed=0):
    pipe = WanPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=wan_transformer(seed), transformer_2=wan_transformer(seed + 1),
                       scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
                       boundary_ratio=0.8)
    return pipe, wan()[1]


def latte(seed=0):
    torch.manual_seed(seed)
    transformer = LatteTransformer3DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32, in_channels=4,
        cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
        norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, video_length=4,
    ).eval()
    pipe = LattePipeline(tokenizer=None, text_encoder=None, vae=AutoencoderKL(), transformer=transformer, scheduler=DDIMScheduler())
    call = dict(prompt=None, negative_prompt=None, prompt_embeds=random(1, 7, 32), negative_prompt_embeds=random(1, 7, 32, seed=1),
                height=8, width=8, video_length=4, clean_caption=False)
    return pipe, call


def cogvideox(seed=0):
    torch.manual_seed(seed)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=32, num_layers=3,
        sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=16,
    ).eval()
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(
        in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    )
    pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=DDIMScheduler())
    call = dict(prompt_embeds=random(1, 16, 32), negative_prompt_embeds=random(1, 16, 32, seed=1), height=16, width=16, num_frames=9,
                max_sequence_length=16)
    return pipe, call


def hunyuan(seed=0):
    torch.manual_seed(seed)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=2, num_single_layers=2,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=16, pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    ).eval()
    torch.manual_seed(seed)
    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, act_fn="silu", norm_num_groups=4, scaling_factor=0.476986,
        spatial_compression_ratio=8, temporal_compression_ratio=4, mid_block_add_attention=True,
    )
    pipe = HunyuanVideoPipeline(text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, vae=vae, transformer=transformer,
                                scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0))
    call = dict(prompt_embeds=random(1, 16, 16), pooled_prompt_embeds=random(1, 8), prompt_attention_mask=torch.ones(1, 16), height=16,
                width=16, num_frames=9)
    return pipe, call


def ltx(seed=0):
    torch.manual_seed(seed)
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=3, caption_channels=32,
    ).eval()
    torch.manual_seed(seed)
    vae = AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False), decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4, upsample_factor=(1,) * 4, timestep_conditioning=False, patch_size=1, patch_size_t=1,
        encoder_causal=True, decoder_causal=False,
    )
    pipe = LTXPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler())
    mask = torch.ones(1, 16)
    call = dict(prompt_embeds=random(1, 16, 32), negative_prompt_embeds=random(1, 16, 32, seed=1), prompt_attention_mask=mask,
                negative_prompt_attention_mask=mask, height=32, width=32, num_frames=9)
    return pipe, call


def mochi(seed=0):
    torch.manual_seed(seed)
    transformer = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=3, pooled_projection_dim=16, in_channels=12,
        out_channels=None, qk_norm="rms_norm", text_embed_dim=32, time_embed_dim=4, activation_fn="swiglu", max_sequence_length=16,
    ).eval()
    pipe = MochiPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler())
    mask = torch.ones(1, 16, dtype=torch.bool)
    call = dict(prompt_embeds=random(1, 16, 32), negative_prompt_embeds=random(1, 16, 32, seed=1), prompt_attention_mask=mask,
                negative_prompt_attention_mask=mask, height=16, width=16, num_frames=13)
    return pipe, call


def allegro(seed=0):
    torch.manual_seed(seed)
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=3, cross_attention_dim=24,
        sample_width=8, sample_height=8, sample_frames=8, caption_channels=24,
    ).eval()
    torch.manual_seed(seed)
    vae = AutoencoderKLAllegro(
        in_channels=3, out_channels=3, down_block_types=("AllegroDownBlock3D",) * 4, up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    )
    pipe = AllegroPipeline(tokenizer=None, text_encoder=None, vae=vae, transformer=transformer, scheduler=EulerAncestralDiscreteScheduler())
    mask = torch.ones(1, 16)
    call = dict(prompt_embeds=random(1, 16, 24), negative_prompt_embeds=random(1, 16, 24, seed=1), prompt_attention_mask=mask,
                negative_prompt_attention_mask=mask, height=16, width=16, num_frames=8,
                negative_prompt=None, clean_caption=False)
    return pipe, call


FAMILIES = {"wan": wan, "wan22": wan22, "latte": latte, "cogvideox": cogvideox, "hunyuan": hunyuan, "ltx": ltx, "mochi": mochi,
            "allegro": allegro}


def run(pipe, call, steps=STEPS, seed=0, **more):
    """The final latents of a generation, with guidance."""
    pipe.set_progress_bar_config(disable=True)
    more = {"output_type": "latent", "generator": torch.Generator().manual_seed(seed), **more}
    out = pipe(**call, num_inference_steps=steps, **more)
    return out.frames if hasattr(out, "frames") else out[0]
